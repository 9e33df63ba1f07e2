"""The problems that every contestant solves: shapes, shared starting parameters, shared batches.

Only NumPy is imported: a worker process of any library rebuilds the same numbers from the same
case, so nothing but a few integers travels between processes.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Case:
    """One LSTM language model and its optimizer (Adam with clipping by global norm).

    Attributes:
        B: batch. T: time steps. H: hidden units. V: vocabulary. L: layers.
        E: embedding size; 0 feeds one-hot tokens to the first layer.
    """

    B: int
    T: int
    H: int
    V: int = 65
    L: int = 1
    E: int = 0
    learning_rate: float = 2e-3
    clip_norm: float = 5.0
    seed: int = 0

    @property
    def name(self) -> str:
        layers = f"{self.L}x" if self.L > 1 else ""
        embedding = f" E={self.E}" if self.E else ""
        return f"B={self.B} T={self.T} H={layers}{self.H} V={self.V}{embedding}"

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def input_size(self, layer: int) -> int:
        return self.H if layer else (self.E or self.V)

    def parameters(self) -> dict[str, Array]:
        """Starting parameters, float32, in the layout of `torch.nn.LSTM` with one bias.

        Returns:
            `weight_ih.{l}` (4H, input), `weight_hh.{l}` (4H, H), `bias.{l}` (4H,) with gates in
            the order i, f, g, o and the forget bias at 1; `head.weight` (V, H), `head.bias` (V,);
            `embedding` (V, E) where E > 0.
        """
        rng = np.random.default_rng(self.seed)

        def uniform(*shape: int, bound: float = self.H**-0.5) -> Array:
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        params: dict[str, Array] = {}
        for layer in range(self.L):
            params[f"weight_ih.{layer}"] = uniform(4 * self.H, self.input_size(layer))
            params[f"weight_hh.{layer}"] = uniform(4 * self.H, self.H)
            bias = uniform(4 * self.H)
            bias[self.H : 2 * self.H] += 1.0
            params[f"bias.{layer}"] = bias
        params["head.weight"] = uniform(self.V, self.H)
        params["head.bias"] = uniform(self.V)
        if self.E:
            params["embedding"] = uniform(self.V, self.E, bound=self.E**-0.5)
        return params

    def batches(self, count: int) -> NDArray[np.int32]:
        """Contiguous streams (count, B, T+1): a skewed, weakly predictable sequence of tokens.

        Row b of window w+1 goes on where row b of window w ended, as in stateful truncated
        back-propagation; the two overlap by one token.
        """
        rng = np.random.default_rng(self.seed + 1)
        length = count * self.T + 1
        steps = np.minimum(rng.geometric(0.25, (self.B, length)), self.V)
        stream = (np.cumsum(steps, axis=1) % self.V).astype(np.int32)
        windows = [stream[:, w * self.T : (w + 1) * self.T + 1] for w in range(count)]
        return np.stack(windows)

    def signals(self) -> tuple[Array, Array]:
        """Dense inputs (T, B, E) of a layer and cotangents (T, B, H) of its hidden states."""
        rng = np.random.default_rng(self.seed + 2)
        inputs, cotangent = (rng.standard_normal((self.T, self.B, n)) for n in (self.E, self.H))
        return inputs.astype(np.float32), cotangent.astype(np.float32)


def cycle(items: list[Any]) -> Iterator[Any]:
    """Yield the items for ever."""
    while True:
        yield from items
