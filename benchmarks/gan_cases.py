"""The text GAN that every contestant trains: shapes, starting parameters, texts.

Only NumPy is imported, as in `benchmarks.cases`: a process of any library makes the same numbers
from the same case.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class GanCase:
    """SeqGAN: an LSTM generator and a CNN discriminator, both with Adam; texts of one length.

    Attributes:
        B: texts of a batch. T: their tokens. V: vocabulary; token 0 is the start.
        E: the generator's embedding. H: its units. D: the discriminator's embedding.
        rollouts: texts continued from each token.
        widths: tokens that filters span. filters: how many of each.
    """

    B: int = 64
    T: int = 20
    V: int = 5000
    E: int = 32
    H: int = 32
    D: int = 64
    rollouts: int = 16
    widths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    filters: tuple[int, ...] = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
    generator_rate: float = 1e-2
    discriminator_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Lists, as JSON has them, become tuples again."""
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "filters", tuple(self.filters))

    @property
    def name(self) -> str:
        return f"B={self.B} T={self.T} H={self.H} V={self.V} E={self.E} N={self.rollouts}"

    @property
    def features(self) -> int:
        return sum(self.filters)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def texts(self, seed: int) -> Ints:
        """A batch (B, T); the frequencies of tokens fall with the rank (Zipf)."""
        draws = np.random.default_rng((self.seed, seed)).random((self.B, self.T))
        return (np.exp(draws * np.log(self.V)) - 1).astype(np.int32)

    def parameters(self) -> dict[str, Floats]:
        """Starting parameters, float32.

        Returns:
            Of the generator `embedding` (V, E), `weight_ih` (4H, E), `weight_hh` (4H, H), `bias`
            (4H,) with gates in the order i, f, g, o, `head.weight` (V, H), `head.bias` (V,). Of the
            discriminator `judge.embedding` (V, D), for each width w `judge.weight.{w}` (F, D, w)
            and `judge.bias.{w}` (F,), `judge.highway.weight` (2 features, features), the transform
            above its gate, `judge.highway.bias`, `judge.head.weight` (features,).
        """
        rng = np.random.default_rng(self.seed + 1)

        def uniform(*shape: int, bound: float) -> Floats:
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        small, size = self.H**-0.5, self.features
        params = {
            "embedding": uniform(self.V, self.E, bound=self.E**-0.5),
            "weight_ih": uniform(4 * self.H, self.E, bound=small),
            "weight_hh": uniform(4 * self.H, self.H, bound=small),
            "bias": uniform(4 * self.H, bound=small),
            "head.weight": uniform(self.V, self.H, bound=small),
            "head.bias": uniform(self.V, bound=small),
            "judge.embedding": uniform(self.V, self.D, bound=1.0),
            "judge.highway.weight": uniform(2 * size, size, bound=size**-0.5),
            "judge.highway.bias": uniform(2 * size, bound=0.1),
            "judge.head.weight": uniform(size, bound=size**-0.5),
        }
        for width, count in zip(self.widths, self.filters, strict=True):
            bound = (width * self.D) ** -0.5
            params[f"judge.weight.{width}"] = uniform(count, self.D, width, bound=bound)
            params[f"judge.bias.{width}"] = uniform(count, bound=0.1)
        return params
