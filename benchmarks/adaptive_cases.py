"""Language models of large vocabularies, with tokens as frequent as words of a text are."""

import dataclasses
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Array, Case


@dataclasses.dataclass(frozen=True)
class AdaptiveCase(Case):
    """A `Case` whose tokens follow Zipf's law, token 0 the most frequent.

    The bias of the output layer is the logarithm of each token's frequency, so that what an
    untrained model writes is distributed as a trained one's words are.

    Attributes:
        adaptive: the output layer is an adaptive softmax; else a full one.
        cutoffs: its clusters' ends but the last.
        divisor: cluster i reads H over this to the power of i numbers.
    """

    adaptive: bool = True
    cutoffs: tuple[int, ...] = (2000, 10_000)
    divisor: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))  # JSON has lists

    @property
    def shares(self) -> NDArray[np.float64]:
        """The frequency of each token (Zipf-Mandelbrot)."""
        weights = 1 / (np.arange(self.V) + 2.7)
        return weights / weights.sum()

    @property
    def cluster_shares(self) -> tuple[float, ...]:
        """The frequency of each cluster."""
        return tuple(self.shares[begin:end].sum() for begin, end in self.bounds)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The first token of each cluster, and the one after its last."""
        return list(pairwise((0, *self.cutoffs, self.V)))

    def parameters(self) -> dict[str, Array]:
        """Those of `Case`; with `adaptive`, in the place of its head, as PyTorch orders them.

        Returns:
            `head.weight` (C + K, H), `head.bias` (C + K,); of each of the K tails i
            `tail.{i}.projection` (D, H) and `tail.{i}.weight` (n, D). Tails have no biases.
        """
        if not self.adaptive:
            params = super().parameters()
            params["head.bias"] = np.log(self.shares).astype(np.float32)
            return params
        params = dataclasses.replace(self, V=8, adaptive=False).parameters()
        rng = np.random.default_rng(self.seed + 3)

        def uniform(*shape: int) -> Array:
            bound = shape[-1] ** -0.5
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        if self.E:
            params["embedding"] = uniform(self.V, self.E)
        else:
            params["weight_ih.0"] = uniform(4 * self.H, self.V)
        scored = [*self.shares[: self.cutoffs[0]], *self.cluster_shares[1:]]
        params["head.weight"] = uniform(len(scored), self.H)
        params["head.bias"] = np.log(scored).astype(np.float32)
        for tail, (begin, end) in enumerate(self.bounds[1:]):
            size = int(self.H // self.divisor ** (tail + 1))
            params[f"tail.{tail}.projection"] = uniform(size, self.H)
            params[f"tail.{tail}.weight"] = uniform(end - begin, size)
        return params

    def batches(self, count: int) -> NDArray[np.int32]:
        """Contiguous streams (count, B, T+1) of tokens drawn by frequency; see `Case.batches`."""
        rng = np.random.default_rng(self.seed + 1)
        stream = rng.choice(self.V, (self.B, count * self.T + 1), p=self.shares).astype(np.int32)
        return np.stack([stream[:, w * self.T : (w + 1) * self.T + 1] for w in range(count)])
