"""A small classifier with random parameters, for the tests of what is done with trained ones."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import ClassifierConfig, ClassifierExperiment, LabelledData, PredictionConfig
from jaxgen.data.tokenizers import PAD
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.prediction.classifier import Apply, Classifier
from jaxgen.tasks.classifier import init_shapes, load

WORDS = (*"abcdefghijklmnop", "good", "bad", "dull", "fine")
NAMES = ("negative", "positive")


def tiny_settings(
    threshold: float = 0.5, temperature: float = 1.0, masking: bool = True, **data: Any
) -> ClassifierExperiment:
    """Settings of a classifier; `data` are those of the labelled texts."""
    return ClassifierExperiment(
        data=LabelledData(lowercase=True, **data),
        model=ClassifierConfig(
            hidden_size=4,
            embedding_size=3,
            bidirectional=False,
            pooling=("last", "mean") if masking else ("last",),
            masking=masking,
        ),
        prediction=PredictionConfig(threshold=threshold, temperature=temperature),
    )


def tiny_classifier(
    names: Sequence[str] = NAMES,
    *,
    multi_label: bool = False,
    max_length: int = 32,
    padded_lengths: tuple[int, ...] = (),
    **settings: Any,
) -> Classifier:
    """A classifier of the words above, as a run of these settings would give it."""
    experiment = tiny_settings(multi_label=multi_label, **settings)
    tokenizer = build_tokenizer(
        experiment.tokenizer.model_copy(update={"min_frequency": 1}),
        [" ".join(WORDS)],
        specials=(PAD,),
    )
    classes = {"labels": names, "multi_label": multi_label, "max_length": max_length}
    files = {
        "tokenizer.json": tokenizer.backend.to_str(),
        "classes.json": json.dumps({**classes, "counts": [1] * len(names)}),
    }
    random = np.random.default_rng(0)
    shapes = init_shapes(experiment, files)
    params = jax.tree.map(lambda x: random.normal(0, 2, x.shape).astype(np.float32), shapes)
    return replace(load(experiment, files, params), padded_lengths=padded_lengths)


def with_function(apply: Apply, params: Any = (), *args: Any, **settings: Any) -> Classifier:
    """The same with another function in the place of the model."""
    return replace(tiny_classifier(*args, **settings), apply=apply, params=params)


def table_of(scores: dict[str, Sequence[float]], default: float = 0.0) -> np.ndarray:
    """Parameters of `bag_of_words`: what each of some words adds to each logit, [V, C]."""
    tokenizer = tiny_classifier().tokenizer
    width = len(next(iter(scores.values())))
    table = np.full((tokenizer.vocab_size, width), default, np.float32)
    for word, row in scores.items():
        table[tokenizer.encode(word)] = row
    return table


@jax.jit
def bag_of_words(params: Any, tokens: Any, lengths: Any) -> Any:
    """Logits that are sums of what each real token says: params[V, C]."""
    real = jnp.arange(tokens.shape[1]) < lengths[:, None]
    return jnp.where(real[..., None], params[tokens], 0).sum(axis=1)
