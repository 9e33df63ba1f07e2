"""The texts of a text GAN: a corpus or an oracle's samples, and their rows of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxgen.config import TextGanData, TextGanExperiment
from jaxgen.data.labelled import LabelledCorpus, LabelledTexts
from jaxgen.data.labels import LabelSet
from jaxgen.data.ragged import Ragged
from jaxgen.data.short_texts import PARTS, encode_texts, load_texts, read_texts
from jaxgen.data.tokenizers import EOS, Tokenizer
from jaxgen.data.vocabulary import build_tokenizer, count_tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation import oracle
from jaxgen.evaluation.oracle import Oracle
from jaxgen.tasks.labelled import Classes, LabelledRows
from jaxgen.tasks.task import Files, Saved
from jaxgen.types import Int


class OracleTexts(NamedTuple):
    """Samples of an oracle."""

    tokens: Int[np.ndarray, "N T"]
    name: str


Part = LabelledTexts | OracleTexts


@dataclass(frozen=True)
class GanCorpus:
    """Texts to train on and, where the settings hold any out, to validate and test on."""

    train: Part
    validation: Part | None = None
    test: Part | None = None
    oracle: Oracle | None = None
    """What wrote them, where that is known."""


def open_data(experiment: TextGanExperiment) -> GanCorpus:
    """The corpus that the settings name."""
    config = experiment.data
    if config.embedded == "oracle":
        return _oracle_corpus(config)
    corpus: LabelledCorpus = load_texts(config)
    return GanCorpus(corpus.train, corpus.validation, corpus.test)


def open_files(experiment: TextGanExperiment, files: Sequence[Path]) -> GanCorpus:
    """All the texts of some files as the part `test`, beside the run's own training texts."""
    if experiment.data.embedded == "oracle":
        raise UserError(
            "this model learned the texts of an oracle, which are no files; leave `files` out"
        )
    return GanCorpus(open_data(experiment).train, test=read_texts(experiment.data, files))


def _oracle_corpus(config: TextGanData) -> GanCorpus:
    """As many samples to train on as the settings say, as many to test on, and some to validate."""
    length = config.max_length
    if config.oracle is not None:
        truth, name = oracle.load(config.oracle, length=length), f"the oracle {config.oracle}"
    else:
        seed = config.oracle_seed % 2**32
        truth = oracle.random(seed, config.oracle_vocab_size, length=length)
        name = f"the oracle of seed {config.oracle_seed}"
    sizes = (config.examples, min(config.examples, 1000), config.examples)
    parts = {
        part: OracleTexts(
            truth.sample(jax.random.fold_in(jax.random.key(config.seed), number), size),
            f"{name} ({part})",
        )
        for number, (part, size) in enumerate(zip(PARTS, sizes, strict=True))
    }
    return GanCorpus(**parts, oracle=truth)


def fit_files(experiment: TextGanExperiment, data: GanCorpus, pretrained: Saved | None) -> Files:
    """The tokenizer of the training texts and, where they have labels, these."""
    if data.oracle is not None:
        tokenizer = count_tokenizer(data.oracle.vocab_size)
        return {"tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n"}
    assert isinstance(data.train, LabelledTexts)
    config, texts = experiment.data, [" ".join(text.split()) for text in data.train.texts]
    tokenizer = build_tokenizer(
        experiment.tokenizer, texts, lowercase=config.lowercase, specials=(EOS,)
    )
    files = {"tokenizer.json": tokenizer.backend.to_str(pretty=True) + "\n"}
    if config.label_column is not None:
        files["classes.json"] = Classes.fit(data.train, config.max_length).to_text()
    return files


def labels_of(files: Files) -> tuple[str, ...]:
    """The names of the labels; none where texts have none."""
    return Classes.of(files).labels.names if "classes.json" in files else ()


def rows_of(
    experiment: TextGanExperiment, tokenizer: Tokenizer, names: Sequence[str], part: Part
) -> LabelledRows:
    """The texts as models read them: what a text starts from, its tokens and its end."""
    if isinstance(part, OracleTexts):
        starts = np.full((len(part.tokens), 1), oracle.START_ID, np.int32)
        rows = Ragged.from_rows(np.concatenate([starts, part.tokens], axis=1))
        return LabelledRows(rows, np.zeros(len(rows), np.int32))
    encoded = encode_texts(tokenizer, part, experiment.data)
    if not names:
        return LabelledRows(encoded.rows, np.zeros(len(encoded.rows), np.int32))
    labels = LabelSet(tuple(names)).encode(part.labels, part.name)
    return LabelledRows(encoded.rows, labels[encoded.kept])


def text_length(experiment: TextGanExperiment) -> int:
    """Most tokens of a text, its end among them; an oracle's texts have none."""
    config = experiment.data
    return config.max_length + (config.embedded != "oracle")
