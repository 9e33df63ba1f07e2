"""What a text GAN reached, beside maximum likelihood at any temperature and real texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.ragged import Ragged
from jaxgen.data.short_texts import PARTS
from jaxgen.errors import UserError
from jaxgen.evaluation.frechet import frechet_distance
from jaxgen.evaluation.gan_figures import sample_figures
from jaxgen.evaluation.gan_plots import plot_curve
from jaxgen.evaluation.gan_tables import gan_tables
from jaxgen.evaluation.gan_verdict import joined
from jaxgen.evaluation.oracle import Oracle
from jaxgen.evaluation.pictures import check_picture
from jaxgen.models.gan_estimators import TextGan
from jaxgen.tasks.labelled import LabelledRows
from jaxgen.tasks.text_gan_data import GanCorpus, rows_of, text_length
from jaxgen.tasks.text_gan_model import GanTextModel, sample_texts, tempered
from jaxgen.tasks.text_gan_quality import Lists, lists_of, lists_of_rows, mean_nll, some
from jaxgen.tasks.text_judge import LEAST_TEXTS, TextJudge, train_judge
from jaxgen.types import PyTree

EVALUATE_OPTIONS = ("samples", "temperatures", "seed", "skip_judges", "curve")
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
MOST_SAMPLES = 10_000
"""As many as the field's tables are of."""


class Measures(NamedTuple):
    """What the rows of one evaluation are measured with."""

    gan: TextGan
    length: int
    labels: np.ndarray
    """Of each sample."""
    seed: int
    test: LabelledRows
    references: Lists
    """The texts of `test`."""
    validation: LabelledRows | None
    oracle: Oracle | None
    judge: TextJudge | None
    """Trained on the test texts, so that all rows are of texts that are new to it."""
    features: np.ndarray | None
    """The judge's, of the test texts."""
    vocab_size: int

    def row(self, params: PyTree, temperature: float, *, reverse: bool = False) -> dict[str, float]:
        """The figures of a generator at a temperature.

        Args:
            params: of the generator.
            temperature: of its samples, and of the likelihoods that it gives.
            reverse: whether to train a judge of the samples, for `rlm`.
        """
        params = tempered(params, temperature)
        tokens, lengths = sample_texts(
            self.gan, params, self.labels, length=self.length, seed=self.seed
        )
        row = {"temperature": temperature, "nll_test": mean_nll(self.gan, params, self.test)}
        if self.validation is not None:
            row["nll_gen"] = mean_nll(self.gan, params, self.validation)
        return row | self._of_texts(tokens, lengths, reverse=reverse)

    def real_row(self, train: LabelledRows) -> dict[str, float]:
        """The figures of as many training texts, as if they were samples."""
        chosen = some(train, len(self.labels), self.seed)
        return self._of_texts(*_padded(chosen.rows, self.length), reverse=True)

    def _of_texts(self, tokens: Any, lengths: Any, *, reverse: bool) -> dict[str, float]:
        samples = lists_of(tokens, lengths, self.gan.end_id)
        found = sample_figures(samples, self.references)
        if self.oracle is not None:
            found["nll_oracle"] = self.oracle.nll(tokens)
        if self.judge is not None:
            features = self.judge.features(tokens, lengths)
            found["fed"] = frechet_distance(features, self.features)
            found["lm"] = self.judge.nll(tokens, lengths)
            if reverse:
                own = train_judge(tokens, lengths, self.vocab_size, seed=self.seed)
                found["rlm"] = own.nll(*_padded(self.test.rows, self.length))
        return found


def evaluate(
    lm: GanTextModel | Sequence[GanTextModel], data: GanCorpus, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare a GAN with maximum likelihood and with its training texts.

    Args:
        lm: From `load`; or those of several seeds.
        data: The corpus.
        options: `split`, the part that samples are compared with; `samples`, how many (default: as
            many as training texts, at most 10,000); `temperatures` of maximum likelihood; `seed`
            of the samples; `skip_judges` to train no language models for `fed`, `lm` and `rlm`,
            which an oracle's texts do without; `curve`, a file to draw the temperatures into.

    Returns:
        `gan`, `mle` (temperature 1), `mle_best` (its best temperature) and `train`: rows of the
        figures in `jaxgen.evaluation.gan_figures.COLUMNS`; `mle_sweep`, and with `curve`
        `gan_sweep`; `verdict`; `text`, `samples`; `adversarial_steps` of the generator.

    Raises:
        UserError: an option is out of its range.
    """
    models = [lm] if isinstance(lm, GanTextModel) else list(lm)
    curve = None if options.get("curve") is None else Path(options["curve"])
    if curve is not None:
        check_picture(curve, "`curve`")
    temperatures = _temperatures(options)
    measures, train = _measures(models[0], data, options)
    real = measures.real_row(train)
    runs = []
    for model in models:
        sweep = [measures.row(model.parts["mle"], t, reverse=t == 1.0) for t in temperatures]
        run = {
            "gan": measures.row(model.parts["generator"], 1.0, reverse=True),
            "mle": sweep[temperatures.index(1.0)],
            "train": real,
            "mle_sweep": sweep,
        }
        if curve is not None:
            run["gan_sweep"] = [measures.row(model.parts["generator"], t) for t in temperatures]
        runs.append(run)
    steps = [int(model.parts["adversarial_steps"]) for model in models]
    figures = {
        "text": getattr(data, options["split"]).name,
        "samples": len(measures.labels),
        "adversarial_steps": round(float(np.mean(steps))),
        **joined(runs),
    }
    if curve is not None:
        plot_curve(curve, figures)
    return figures


def show(figures: dict[str, Any]) -> str:
    """What `jaxgen evaluate` prints."""
    return gan_tables(figures)


def _temperatures(options: Mapping[str, Any]) -> list[float]:
    """The temperatures in rising order, 1 among them."""
    temperatures = options.get("temperatures", TEMPERATURES)
    wrong = [t for t in temperatures if not 0 < t < float("inf")]
    if wrong:
        raise UserError(f"`temperatures` must be above 0, got {wrong[0]}; leave it out")
    return sorted({float(t) for t in temperatures} | {1.0})


def _measures(
    lm: GanTextModel, data: GanCorpus, options: Mapping[str, Any]
) -> tuple[Measures, LabelledRows]:
    """What to measure with, and the training texts."""
    assert lm.gan is not None
    rows = {
        name: rows_of(lm.config, lm.tokenizer, lm.labels, part)
        for name in {"train", "validation", options["split"]} & set(PARTS)
        if (part := getattr(data, name)) is not None
    }
    test = rows[options["split"]]
    count = options.get("samples", min(len(rows["train"].rows), MOST_SAMPLES))
    if count < LEAST_TEXTS:
        raise UserError(f"`samples` must be at least {LEAST_TEXTS}, got {count}; take more")
    length, vocab_size = text_length(lm.config), lm.tokenizer.vocab_size
    seed, judge, features = options.get("seed", 0), None, None
    judged = data.oracle is None and len(test.rows) >= LEAST_TEXTS
    if judged and not options.get("skip_judges"):
        real = _padded(test.rows, length)
        judge = train_judge(*real, vocab_size, seed=seed)
        features = judge.features(*real)
    labels = np.asarray(rows["train"].labels)
    labels = np.random.default_rng(seed).choice(labels, count)
    measures = Measures(
        gan=lm.gan,
        length=length,
        labels=labels.astype(np.int32),
        seed=seed,
        test=test,
        references=lists_of_rows(test, lm.gan.end_id),
        validation=rows.get("validation"),
        oracle=data.oracle,
        judge=judge,
        features=features,
        vocab_size=vocab_size,
    )
    return measures, rows["train"]


def _padded(rows: Ragged, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts without what they start from, and their tokens, the end among them."""
    tokens, lengths = rows.padded(np.arange(len(rows)), length + 1)
    return tokens[:, 1:], lengths - 1
