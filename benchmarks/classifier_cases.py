"""The classifiers that every contestant trains: shapes, texts of random lengths, parameters.

Only NumPy is imported, as in `benchmarks.cases`: a process of any library makes the same numbers
from the same case. The order of the rows is jaxgen's own (`plan`), as only jaxgen cuts batches by
length; it travels as row numbers.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Plan = tuple[tuple[int, tuple[int, ...]], ...]
"""The batches of an epoch: padded length, and the rows."""

WITHOUT_STOP_WORDS = (4.56, 0.66)
"""Mean and deviation of the logarithm of a length: IMDB's training reviews, letters only and
without English stop words; about 119 words in the mean."""
ALL_WORDS = (5.42, 0.64)
"""The same of all words and punctuation marks; about 277 in the mean."""


@dataclasses.dataclass(frozen=True)
class ClassifierCase:
    """A binary LSTM classifier of texts, trained by Adam without clipping.

    Attributes:
        B: batch. H: hidden units a direction. E: embedding size.
        V: vocabulary; token 0 is the padding.
        rows: texts of an epoch, a multiple of B.
        log_lengths: mean and deviation of the logarithm of a text's length.
        max_length: longer texts are cut after it.
        buckets: most different padded lengths.
        bidirectional: a second LSTM reads from the end.
        pooling: of `last`, `mean` and `max`, concatenated.
        plan: the batches of the epoch, see `Plan`; empty until jaxgen has cut them.
    """

    B: int
    H: int
    E: int
    V: int = 20_000
    rows: int = 4096
    log_lengths: tuple[float, float] = WITHOUT_STOP_WORDS
    max_length: int = 120
    buckets: int = 6
    bidirectional: bool = False
    pooling: tuple[str, ...] = ("last",)
    learning_rate: float = 1e-3
    seed: int = 0
    plan: Plan = ()

    def __post_init__(self) -> None:
        """Lists, as JSON has them, become tuples again."""
        object.__setattr__(self, "log_lengths", tuple(self.log_lengths))
        object.__setattr__(self, "pooling", tuple(self.pooling))
        object.__setattr__(self, "plan", tuple((n, tuple(rows)) for n, rows in self.plan))

    @property
    def name(self) -> str:
        kind = "BiLSTM" if self.bidirectional else "LSTM"
        pools = "+".join(self.pooling)
        return f"{kind} {pools} B={self.B} T<={self.max_length} H={self.H} V={self.V} E={self.E}"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def features(self) -> int:
        """Numbers that the last layer reads of a text."""
        return self.directions * self.H * len(self.pooling)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def shape(self) -> dict[str, Any]:
        """What a result row says of it."""
        facts = self.as_dict()
        facts["batches"] = len(facts.pop("plan"))
        return facts | {"examples": self.examples, "tokens": self.tokens, "padded": self.padded}

    @property
    def examples(self) -> int:
        """Texts of an epoch."""
        return sum(len(rows) for _, rows in self.plan)

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, without padding."""
        lengths = self.lengths()
        return int(sum(lengths[list(rows)].sum() for _, rows in self.plan))

    @property
    def padded(self) -> int:
        """Steps of an epoch, with the padding."""
        return sum(length * len(rows) for length, rows in self.plan)

    def lengths(self) -> Ints:
        """Lengths (rows,) of the texts, from a log-normal distribution, cut at `max_length`."""
        drawn = np.random.default_rng(self.seed).lognormal(*self.log_lengths, self.rows)
        return np.clip(np.rint(drawn), 1, self.max_length).astype(np.int32)

    def texts(self) -> list[Ints]:
        """Tokens of each text, from 1 up; their frequencies fall with the rank (Zipf)."""
        rng = np.random.default_rng(self.seed + 1)
        lengths = self.lengths()
        ranks = np.exp(rng.random(lengths.sum()) * np.log(self.V))  # in [1, V)
        return np.split(ranks.astype(np.int32), np.cumsum(lengths)[:-1])

    def labels(self) -> Ints:
        """Labels (rows,): 1 where most tokens are odd, so that there is something to learn."""
        return np.array([(text % 2).mean() > 0.5 for text in self.texts()], np.int32)

    def batches(self, *, to_longest: bool = False) -> list[tuple[Ints, Ints, Ints]]:
        """Tokens (B, T), lengths (B,) and labels (B,) of each batch of the plan.

        Args:
            to_longest: pad all to `max_length`, and not to the batch's padded length.
        """
        texts, labels = self.texts(), self.labels()
        found = []
        for length, rows in self.plan:
            chosen = [texts[row] for row in rows]
            tokens = padded(chosen, self.max_length if to_longest else length)
            lengths = np.array([len(text) for text in chosen], np.int32)
            found.append((tokens, lengths, labels[list(rows)]))
        return found

    def parameters(self) -> dict[str, Floats]:
        """Starting parameters, float32, in the layout of `torch.nn.LSTM` with one bias.

        Returns:
            `embedding` (V, E); for each direction `d` `weight_ih.{d}` (4H, E), `weight_hh.{d}`
            (4H, H) and `bias.{d}` (4H,), gates in the order i, f, g, o and the forget bias at 1;
            `head.weight` (1, features) and `head.bias` (1,): one logit, of label 1.
        """
        rng = np.random.default_rng(self.seed + 2)

        def uniform(*shape: int, bound: float = self.H**-0.5) -> Floats:
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        params = {"embedding": uniform(self.V, self.E, bound=self.E**-0.5)}
        for direction in range(self.directions):
            params[f"weight_ih.{direction}"] = uniform(4 * self.H, self.E)
            params[f"weight_hh.{direction}"] = uniform(4 * self.H, self.H)
            bias = uniform(4 * self.H)
            bias[self.H : 2 * self.H] += 1.0
            params[f"bias.{direction}"] = bias
        params["head.weight"] = uniform(1, self.features)
        params["head.bias"] = uniform(1)
        return params


def padded(texts: list[Ints], length: int) -> Ints:
    """Rows (B, length), zeros after each text."""
    tokens = np.zeros((len(texts), length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens
