"""A small classifier with random parameters, for the tests of what is done with trained ones."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import LabelledData, TokenizerConfig
from jaxgen.data.labels import LabelSet
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.models.classifier import TextClassifier
from jaxgen.prediction.classifier import Apply, Classifier, apply_of

WORDS = (*"abcdefghijklmnop", "good", "bad", "dull", "fine")


def tiny_settings(
    threshold: float = 0.5, temperature: float = 1.0, masking: bool = True, **data: Any
) -> Any:
    """The settings that a `Classifier` reads; `data` are those of the labelled texts."""
    return SimpleNamespace(
        data=LabelledData(lowercase=True, **data),
        model=SimpleNamespace(masking=masking),
        prediction=SimpleNamespace(threshold=threshold, temperature=temperature),
    )


def tiny_classifier(
    names: Sequence[str] = ("negative", "positive"),
    *,
    multi_label: bool = False,
    apply: Apply | None = None,
    params: Any = None,
    max_length: int = 32,
    padded_lengths: tuple[int, ...] = (),
    pooling: tuple[str, ...] = ("last", "mean"),
    kind: str = "word",
    **changed: Any,
) -> Classifier:
    """An LSTM classifier of the words above, or another `apply` with its parameters."""
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind), [" ".join(WORDS)], lowercase=True)
    config = tiny_settings(**changed)
    if apply is None:
        model = TextClassifier(
            vocab_size=tokenizer.vocab_size,
            num_classes=len(names),
            hidden_size=4,
            embedding_size=3,
            pooling=pooling,
            masking=config.model.masking,
            multi_label=multi_label,
        )
        example = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, 1), (1,)))
        shapes = jax.eval_shape(model.init, jax.random.key(0), *example)["params"]
        random = np.random.default_rng(0)
        params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)
        apply = apply_of(model)
    labels = LabelSet(tuple(names), multi_label)
    return Classifier(params, config, tokenizer, labels, apply, max_length, padded_lengths)


def bag_of_words(params: Any, tokens: Any, lengths: Any) -> Any:
    """Logits that are sums of what each real token says: params[V, C]."""
    real = jnp.arange(tokens.shape[1]) < lengths[:, None]
    return jnp.where(real[..., None], params[tokens], 0).sum(axis=1)
