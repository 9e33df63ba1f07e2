"""The encoder-decoders that every contestant trains and decodes with: shapes, pairs, parameters.

Only NumPy is imported, as in `benchmarks.cases`: a process of any library makes the same numbers
from the same case. The order of the pairs is jaxgen's own (`plan`), as only jaxgen cuts batches by
tokens; it travels as row numbers.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.classifier_cases import Floats, Ints, padded

Plan = tuple[tuple[tuple[int, int], tuple[int, ...]], ...]
"""The batches of an epoch: padded lengths of sources and targets, and the pairs."""
BOS, EOS, FIRST = 1, 2, 3
"""Beginning and end of a target, and the first token that is a word; 0 is the padding."""
NEVER = -100.0
"""Added to the logit of the end where no text shall end."""


@dataclasses.dataclass(frozen=True)
class Seq2SeqCase:
    """An LSTM encoder-decoder of one layer a side, trained by Adam without clipping or dropout.

    Attributes:
        title: of the case.
        H: hidden units of the decoder, and of each direction of the encoder.
        E: embedding size of both sides. V: vocabulary of each side.
        bidirectional: the encoder reads both ways; a bridge then leads to the decoder, which else
            begins where the encoder ended.
        attention: `none`, or `general` (Luong et al. 2015), without input feeding.
        pairs: of an epoch.
        log_lengths: mean and deviation of the logarithm of a source's length, and of a target's.
        correlation: of the two logarithms.
        longest: tokens of a source and of a target, without its beginning and end, at most.
        batch_tokens: source and target tokens of a batch, padding included, at most.
        buckets: most different shapes.
        B: texts of a call that decodes.
        calls: such calls, each on other sources.
        beams: width of a beam search; 1 takes the most likely token at each step.
        new_tokens: that every text is decoded to, as none ends before.
        plan: the batches of the epoch, see `Plan`; empty until jaxgen has cut them.
    """

    title: str
    H: int
    E: int
    V: int
    bidirectional: bool
    attention: str
    pairs: int
    log_lengths: tuple[tuple[float, float], tuple[float, float]]
    correlation: float
    longest: tuple[int, int]
    new_tokens: int
    batch_tokens: int = 4096
    buckets: int = 6
    B: int = 1
    calls: int = 4
    beams: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    plan: Plan = ()

    def __post_init__(self) -> None:
        """Lists, as JSON has them, become tuples again."""
        source, target = self.log_lengths
        object.__setattr__(self, "log_lengths", (tuple(source), tuple(target)))
        object.__setattr__(self, "longest", tuple(self.longest))
        plan = tuple((tuple(shape), tuple(rows)) for shape, rows in self.plan)
        object.__setattr__(self, "plan", plan)

    @property
    def name(self) -> str:
        kind = "BiLSTM-LSTM" if self.bidirectional else "LSTM-LSTM"
        attention = "" if self.attention == "none" else f" {self.attention}"
        sizes = f"H={self.H} V={self.V} E={self.E}"
        return f"{self.title} {kind}{attention} {sizes}{'' if self.plan else f' B={self.B}'}"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Numbers that the encoder gives a step."""
        return self.directions * self.H

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
        """Pairs of an epoch."""
        return sum(len(rows) for _, rows in self.plan)

    @property
    def tokens(self) -> int:
        """Tokens of an epoch that are read or foretold, without padding: S a source, T a target."""
        rows = [row for _, batch in self.plan for row in batch]
        return int(self.lengths()[rows].sum()) + len(rows)

    @property
    def padded(self) -> int:
        """The same with the padding."""
        return sum((source + target - 1) * len(rows) for (source, target), rows in self.plan)

    def lengths(self) -> NDArray[np.int64]:
        """Lengths (pairs, 2) of sources and targets, without beginning and end of the targets."""
        (source, own), (target, other) = self.log_lengths
        between = self.correlation * own * other
        covariance = [[own**2, between], [between, other**2]]
        rng = np.random.default_rng(self.seed)
        drawn = np.exp(rng.multivariate_normal([source, target], covariance, self.pairs))
        return np.clip(np.rint(drawn), 1, self.longest).astype(np.int64)

    def rows(self) -> tuple[list[Ints], list[Ints]]:
        """Tokens of each source, and of each target from `BOS` on to `EOS`; Zipf's frequencies."""
        rng = np.random.default_rng(self.seed + 1)
        sides = []
        for lengths in self.lengths().T:
            ranks = np.exp(rng.random(lengths.sum()) * np.log(self.V - FIRST + 1)) - 1
            tokens = ranks.astype(np.int32) + FIRST
            sides.append(np.split(tokens, np.cumsum(lengths)[:-1]))
        sources, targets = sides
        return sources, [np.concatenate([[BOS], row, [EOS]]).astype(np.int32) for row in targets]

    def batches(self) -> list[tuple[Ints, Ints, Ints, Ints]]:
        """Sources (B, S), lengths (B,), targets (B, T + 1) and lengths (B,) of each batch."""
        sources, targets = self.rows()
        found = []
        for shape, rows in self.plan:
            batch: list[Ints] = []
            for side, length in zip((sources, targets), shape, strict=True):
                chosen = [side[row] for row in rows]
                batch += [padded(chosen, length), np.array(list(map(len, chosen)), np.int32)]
            found.append((batch[0], batch[1], batch[2], batch[3]))
        return found

    def questions(self) -> list[tuple[Ints, Ints]]:
        """Sources (B, S), padded to the longest of them, and lengths (B,) of each call."""
        sources = self.rows()[0]
        found = []
        for call in range(self.calls):
            chosen = [sources[(call * self.B + row) % self.pairs] for row in range(self.B)]
            lengths = np.array(list(map(len, chosen)), np.int32)
            found.append((padded(chosen, int(lengths.max())), lengths))
        return found

    def parameters(self, *, endless: bool = False) -> dict[str, Floats]:
        """Starting parameters, float32, in the layout of `torch.nn.LSTM` with one bias.

        Args:
            endless: the end of a text is so unlikely that no text ends, and the logits are wider
                apart, so that rounding does not decide between tokens.

        Returns:
            `source_embedding` and `embedding` (V, E); for `encoder.{d}` of each direction `d` and
            `decoder` a `.weight_ih` (4H, E), `.weight_hh` (4H, H) and `.bias` (4H,), gates in the
            order i, f, g, o and the forget bias at 1; where the encoder reads both ways
            `bridge.c` and `bridge.h` `.weight` (H, 2H) and `.bias` (H,); where there is attention
            `attention.key`, `attention.value` (H, outputs) and `attention.hidden` (H, H);
            `head.weight` (V, H) and `head.bias` (V,).
        """
        rng = np.random.default_rng(self.seed + 2)

        def uniform(*shape: int, bound: float = self.H**-0.5) -> Floats:
            return rng.uniform(-bound, bound, shape).astype(np.float32)

        names = ("source_embedding", "embedding")
        params = {name: uniform(self.V, self.E, bound=self.E**-0.5) for name in names}
        for name in [*(f"encoder.{way}" for way in range(self.directions)), "decoder"]:
            params[f"{name}.weight_ih"] = uniform(4 * self.H, self.E)
            params[f"{name}.weight_hh"] = uniform(4 * self.H, self.H)
            bias = uniform(4 * self.H)
            bias[self.H : 2 * self.H] += 1.0
            params[f"{name}.bias"] = bias
        if self.bidirectional:
            for name in ("bridge.c", "bridge.h"):
                params[f"{name}.weight"] = uniform(self.H, self.output_size)
                params[f"{name}.bias"] = uniform(self.H)
        if self.attention != "none":
            params["attention.key"] = uniform(self.H, self.output_size)
            params["attention.value"] = uniform(self.H, self.output_size)
            params["attention.hidden"] = uniform(self.H, self.H)
        params["head.weight"] = uniform(self.V, self.H) * (WIDER if endless else 1)
        params["head.bias"] = uniform(self.V)
        if endless:
            params["head.bias"][EOS] += NEVER
        return params


WIDER = np.float32(8)
"""Times the weights of the output layer where texts are decoded."""
