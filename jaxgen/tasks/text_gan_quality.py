"""How good and how different a generator's texts are, told while it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from jaxgen.config import TextGanExperiment
from jaxgen.data.buckets import batches_by_length
from jaxgen.evaluation.bleu import bleus
from jaxgen.evaluation.gan_figures import sample_figures
from jaxgen.evaluation.oracle import Oracle
from jaxgen.evaluation.sums import make_sums
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.text_gan import generator_nll
from jaxgen.tasks.labelled import EVALUATION_ROWS, LabelledRows
from jaxgen.tasks.task import Files
from jaxgen.tasks.text_gan_data import text_length
from jaxgen.tasks.text_gan_model import sample_texts
from jaxgen.training.trainable import Objective
from jaxgen.types import Array, Float, Int, LossAux, PyTree

Lists = list[list[int]]

BLEU = 4
"""Tokens of the longest n-grams that are compared while training."""
_SHOWN = (f"bleu_{BLEU}", f"self_bleu_{BLEU}", "distinct_2")


def objective(experiment: TextGanExperiment, files: Files) -> Objective:
    """What decides which checkpoint is the best; each counts quality and diversity both.

    `bleu_f1` is the harmonic mean of the BLEU of samples beside held-out texts and that of held-out
    texts beside samples (Shi et al. 2018), `nll_balanced` the mean of the nats per token that the
    oracle gives to samples and the generator to held-out texts. Without an adversarial phase it is
    the latter alone.
    """
    if not experiment.adversarial.steps:
        return Objective("nll", unit="nats per token", counts="texts")
    if experiment.data.embedded == "oracle":
        return Objective("nll_balanced", unit="nats per token", counts="texts")
    return Objective("bleu_f1", higher_is_better=True, counts="texts")


@dataclass(frozen=True)
class Quality:
    """The figures of samples at temperature 1, beside those of as many training texts.

    The objective is among them once the generator made an adversarial step: only then is there a
    GAN that could be the best.
    """

    gan: TextGan
    labels: Int[np.ndarray, " N"]
    """Of the samples."""
    length: int
    held_out: LabelledRows
    references: Lists
    """The texts of `held_out`."""
    real: Mapping[str, float]
    """Figures of training texts."""
    oracle: Oracle | None
    objective: str

    @classmethod
    def of(
        cls,
        experiment: TextGanExperiment,
        gan: TextGan,
        train: LabelledRows,
        held_out: LabelledRows,
        oracle: Oracle | None,
    ) -> "Quality":
        """Choose texts to compare with."""
        chosen = some(train, experiment.samples.measured)
        references = lists_of_rows(held_out, gan.end_id)
        return cls(
            gan,
            np.asarray(chosen.labels),
            text_length(experiment),
            held_out,
            references,
            sample_figures(lists_of_rows(chosen, gan.end_id), references),
            oracle,
            objective(experiment, {}).name,
        )

    def __call__(self, params: PyTree) -> dict[str, float]:
        """The figures of the parameters of one run."""
        tokens, lengths = sample_texts(
            self.gan, params["generator"], self.labels, length=self.length
        )
        samples = lists_of(tokens, lengths, self.gan.end_id)
        found = sample_figures(samples, self.references)
        figures = {name: found[name] for name in _SHOWN}
        if self.oracle is not None:
            figures["nll_oracle"] = self.oracle.nll(tokens)
        if int(params["adversarial_steps"]) == 0:
            return figures
        if self.oracle is not None:
            nll = mean_nll(self.gan, params["generator"], self.held_out)
            figures["nll_balanced"] = (figures["nll_oracle"] + nll) / 2
        else:
            forward = figures[f"bleu_{BLEU}"]
            backward = bleus(self.references, samples, BLEU)[BLEU]
            figures["bleu_f1"] = harmonic_mean(forward, backward)
        return figures

    def alarm(self, figures: Mapping[str, float]) -> str | None:
        """What speaks of a collapse in the figures of an evaluation.

        Samples are half-way from training texts to texts that are all the same: their Self-BLEU to
        1, or their distinct-2 to 0.
        """
        if self.objective not in figures:
            return None
        likeness, diversity = f"self_bleu_{BLEU}", "distinct_2"
        alike = figures[likeness] > (1 + self.real[likeness]) / 2
        few = not figures[diversity] >= self.real[diversity] / 2  # nan: no text has a pair
        for name, collapsed in ((likeness, alike), (diversity, few)):
            if collapsed:
                return (
                    f"`{name}` of samples is {figures[name]:.3f}, that of as many training texts "
                    f"{self.real[name]:.3f}: the generator collapses; the best checkpoint is kept "
                    "(lower `generator_optimizer.learning_rate`, or raise "
                    "`adversarial.entropy_bonus`)"
                )
        return None


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b); 0 where both are 0."""
    total = first + second
    return 2 * first * second / total if total else 0.0


def held_out_nll(
    gan: TextGan, params: PyTree, carry: PyTree, batch: Any, key: Array | None = None
) -> tuple[Float[Array, ""], LossAux]:
    """Nats per token that the generator gives to texts."""
    return generator_nll(gan.generator, params["generator"], carry, batch, start_id=gan.start_id)


@cache
def _sums(gan: TextGan) -> Callable[..., Any]:
    return make_sums(partial(held_out_nll, gan), batches_per_dispatch=8)


def mean_nll(gan: TextGan, params: PyTree, rows: LabelledRows) -> float:
    """Mean nats per token of texts under a generator, given its parameters."""
    padded = [int(rows.rows.lengths.max())]
    batches = batches_by_length(*rows, EVALUATION_ROWS, padded)
    found = _sums(gan)({"generator": params}, (), (batch for _, batch in batches))["nll"]
    return float(found.total / found.weight)


def some(rows: LabelledRows, count: int, seed: int = 0) -> LabelledRows:
    """So many of the rows by chance, each at most once; all, where there are no more."""
    order = np.random.default_rng(seed).permutation(len(rows.rows))
    return rows.take(np.sort(order[:count]))


def lists_of_rows(rows: LabelledRows, end_id: int | None) -> Lists:
    """The tokens of each row, without what it starts from and without its end."""
    drawn = range(len(rows.rows))
    tokens = (rows.rows.row(index)[1:] for index in drawn)
    return [_without_end(row.tolist(), end_id) for row in tokens]


def lists_of(tokens: Any, lengths: Any, end_id: int | None) -> Lists:
    """The tokens of padded texts, each without its end."""
    pairs = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return [_without_end(row[:length], end_id) for row, length in pairs]


def _without_end(row: list[int], end_id: int | None) -> list[int]:
    return row[:-1] if row and row[-1] == end_id else row
