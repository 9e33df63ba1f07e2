"""Several classifiers as one, whose probabilities are the mean of theirs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.ensemble import row_weights
from jaxgen.generation.mixing import average, product
from jaxgen.prediction.batches import Apply
from jaxgen.prediction.classifier import Classifier
from jaxgen.trees import same_shapes, stacked
from jaxgen.types import Array, Float, PyTree

_CLEANING = (
    *("strip_html", "letters_only", "separate_punctuation", "drop_stop_words", "lowercase"),
    "keep",
)


def ensemble_classifier(
    classifiers: Sequence[Classifier], weights: Any = None, mode: str = "average"
) -> Classifier:
    """One classifier whose probabilities are the weighted mean of those of several.

    Threshold and temperature are those of the first one's settings; the temperature acts on the
    mean (Rahaman & Thiery, 2021, "Uncertainty Quantification and Deep Ensembles").

    Args:
        classifiers: of one tokenizer and the same labels, which read texts alike.
        weights: one for each; None: all the same.
        mode: "average" of the probabilities, or their "product" to the power of the weights, made
            to sum to 1.

    Raises:
        UserError: the classifiers differ in what they must share, or the weights are out of their
            range.
    """
    first = classifiers[0]
    for name in _shared(first):
        values = [_shared(classifier)[name] for classifier in classifiers]
        if other := [value for value in values if value != values[0]]:
            raise UserError(
                f"the classifiers of an ensemble must have the same {name}, got {values[0]} and "
                f"{other[0]}; leave one out, or train it anew with the settings of the other"
            )
    functions = tuple(classifier.apply for classifier in classifiers)
    members = tuple(classifier.params for classifier in classifiers)
    alike = len(set(functions)) == 1 and same_shapes(members)
    weights = row_weights(weights, 1, len(classifiers), mode)
    params = {"members": stacked(members) if alike else members, "weights": weights}
    functions = functions[:1] if alike else functions
    return replace(first, params=params, apply=_apply(functions, first.labels.multi_label, mode))


def _shared(classifier: Classifier) -> dict[str, Any]:
    """What the classifiers of an ensemble have in common, by name."""
    data = classifier.config.data
    tokenizer = classifier.tokenizer
    return {
        "labels": ", ".join(classifier.labels.names),
        "data.multi_label": classifier.labels.multi_label,
        "tokenizer": f"{tokenizer!r} {tokenizer.fingerprint[:8]}",
        "data.max_length": classifier.max_length,
        "model.masking": classifier.config.model.masking,
        **{f"data.{name}": getattr(data, name) for name in _CLEANING},
    }


@lru_cache(maxsize=8)
def _apply(functions: tuple[Apply, ...], multi_label: bool, mode: str) -> Apply:
    """The jitted function of an ensemble; ensembles of the same modules share one."""
    join = {"average": average, "product": product}[mode]

    def apply(params: PyTree, tokens: Array, lengths: Array) -> Float[Array, "B C"]:
        if len(functions) > 1:
            logits = jnp.stack(
                [
                    function(member, tokens, lengths)
                    for function, member in zip(functions, params["members"], strict=True)
                ]
            )
        else:
            # One after the other, not vmapped: the fastest backends of the recurrence cannot be.
            logits = jax.lax.map(lambda one: functions[0](one, tokens, lengths), params["members"])
        logits = jnp.swapaxes(logits, 0, 1)
        weights = jnp.broadcast_to(params["weights"], logits.shape[:2])
        if not multi_label:
            return join(logits, weights)
        # Each label is a choice of its own, between no (a logit of 0) and yes.
        found = join(jnp.stack([jnp.zeros_like(logits), logits], axis=-1), weights)
        return found[..., 1] - found[..., 0]

    return jax.jit(apply)
