"""What the tasks of labelled texts share: labels as a run keeps them, rows, batches, evaluation."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.buckets import BucketedRows, LabelDropout, batches_by_length, bucket_lengths
from jaxgen.data.labelled import LabelledCorpus, LabelledTexts, load_labelled, read_labelled
from jaxgen.data.labels import LabelSet
from jaxgen.data.ragged import Labels, Ragged
from jaxgen.evaluation.sums import LossFn, make_sums
from jaxgen.tasks.task import Files, tokenizer_of
from jaxgen.training.seeds import SeedLayout, over_seeds
from jaxgen.training.trainable import Evaluation
from jaxgen.types import Int, PyTree, Sum

EVALUATION_ROWS = 64
"""Texts that are evaluated side by side."""


class Classes(NamedTuple):
    """What a run keeps of its labelled texts beside the tokenizer, in `classes.json`."""

    labels: LabelSet
    max_length: int
    """Most tokens of a text."""
    counts: tuple[int, ...]
    """Training texts of each label."""

    @classmethod
    def fit(cls, train: LabelledTexts, max_length: int, *, multi_label: bool = False) -> "Classes":
        """The labels of the training texts, and how many texts each has."""
        labels = LabelSet.fit(train.labels, multi_label)
        encoded = labels.encode(train.labels, train.name)
        counts = encoded.sum(0) if multi_label else np.bincount(encoded)
        return cls(labels, max_length, tuple(counts.astype(int).tolist()))

    @classmethod
    def of(cls, files: Files) -> "Classes":
        """Read them."""
        kept = json.loads(files["classes.json"])
        return cls(LabelSet.from_dict(kept), kept["max_length"], tuple(kept["counts"]))

    def to_text(self) -> str:
        """Write them."""
        kept = {**self.labels.to_dict(), "max_length": self.max_length, "counts": self.counts}
        return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"


class LabelledRows(NamedTuple):
    """A part of the corpus as the model reads it."""

    rows: Ragged
    labels: Labels

    def take(self, indexes: Int[np.ndarray, " K"]) -> "LabelledRows":
        """Some of them."""
        labels = None if self.labels is None else self.labels[indexes]
        return LabelledRows(self.rows.take(indexes), labels)


def open_data(experiment: Any) -> LabelledCorpus:
    """The corpus that the settings name."""
    return load_labelled(experiment.data)


def open_files(experiment: Any, files: Sequence[Path]) -> LabelledCorpus:
    """All the texts of some files, read as the settings say."""
    texts = read_labelled(experiment.data, files)
    return LabelledCorpus(train=texts, test=texts)


def facts(experiment: Any, files: Files) -> dict[str, Any]:
    """The labels and the vocabulary."""
    classes, tokenizer = Classes.of(files), tokenizer_of(files)
    return {
        "labels": ", ".join(classes.labels.names),
        "training_texts": dict(zip(classes.labels.names, classes.counts, strict=True)),
        "max_length": classes.max_length,
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
    }


def labelled_parts(
    data: LabelledCorpus, labels: LabelSet, read: Callable[[Sequence[str]], Ragged]
) -> dict[str, LabelledRows]:
    """The parts of the corpus that there are, encoded by `read`."""
    return {
        name: LabelledRows(read(part.texts), labels.encode(part.labels, part.name))
        for name in ("train", "validation", "test")
        if (part := getattr(data, name)) is not None
    }


def training_batches(
    experiment: Any, part: LabelledRows, label_dropout: LabelDropout | None = None
) -> BucketedRows:
    """Batches in length buckets, as the settings of a task of labelled texts say."""
    config = experiment.training
    return BucketedRows(
        *part,
        config.batch_size,
        bucket_lengths(part.rows.lengths, experiment.data.buckets),
        experiment.data.seed,
        block=config.accumulate_steps * config.steps_per_dispatch,
        accumulate_steps=config.accumulate_steps,
        label_dropout=label_dropout,
    )


def evaluation_by_length(
    loss_fn: LossFn, held_out: LabelledRows | None, seeds: SeedLayout | None
) -> Evaluation | None:
    """The sums of a loss over the validation texts; None without any."""
    if held_out is None:
        return None
    sums = make_sums(
        loss_fn,
        batches_per_dispatch=8,
        over_runs=None if seeds is None else partial(over_seeds, layout=seeds),
    )
    lengths = bucket_lengths(held_out.rows.lengths, 4)
    # One row of each padded length is enough to compile for all.
    few = np.unique(np.searchsorted(lengths, held_out.rows.lengths), return_index=True)[1]

    def measure(part: LabelledRows, params: PyTree) -> dict[str, Sum]:
        batches = batches_by_length(*part, EVALUATION_ROWS, lengths)
        return sums(params, (), (batch for _, batch in batches))

    return Evaluation(partial(measure, held_out.take(few)), partial(measure, held_out))
