"""Several text models, or translators, as one that chooses each token together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.coverage import attention
from jaxgen.generation.decoding import PrefillFn, prepared
from jaxgen.generation.ensemble import (
    EnsembleCarry,
    EnsembleOfStep,
    EnsembleStep,
    ensemble,
    ensemble_carry,
    ensemble_of,
    ensemble_of_carry,
    row_weights,
)
from jaxgen.generation.programs import InitialCarry
from jaxgen.generation.text import TextModel
from jaxgen.generation.translator import AttentionFn, Translator
from jaxgen.trees import same_shapes, stacked
from jaxgen.types import Array, Bool, Float, Int, PyTree


class JoinedParams(NamedTuple):
    """Parameters of an ensemble of M models."""

    members: PyTree
    """Stacked on axis 0, or a tuple of each model's."""
    weights: Float[Any, "M"]


@dataclass(frozen=True)
class JoinedStep:
    """A step or prefill function of an ensemble whose parameters hold its weights too.

    Another weight is then not another program.
    """

    function: EnsembleStep | EnsembleOfStep

    def __call__(
        self, params: JoinedParams, carry: EnsembleCarry, tokens: Int[Array, "B *T"], *mask: Array
    ) -> tuple[EnsembleCarry, Float[Array, "B *T V"]]:
        """One step, or one pass over a prompt with its mask."""
        return self.function(params.members, carry, tokens, *mask)

    def prepare(self, params: JoinedParams) -> JoinedParams:
        """The parameters of each model as its own loop wants them."""
        return params._replace(members=prepared(self.function, params.members))

    @property
    def attention(self) -> Any:
        """That of the ensemble, if its models attend to something."""
        return self._attention if self.function.attention else None

    def _attention(
        self, params: JoinedParams, carry: EnsembleCarry
    ) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
        return attention(self.function, params.members, carry)


@dataclass(frozen=True)
class JoinedInitialCarry:
    """`initial_carry(params, batch_size, condition)` of an ensemble."""

    functions: tuple[InitialCarry, ...]
    """Those of the models; where their parameters are stacked, the one of all."""
    mode: str
    is_stacked: bool

    def __call__(self, params: JoinedParams, batch_size: int, condition: PyTree) -> EnsembleCarry:
        """The carry before the first token; the condition is that of each model."""
        members, weights = params
        if self.is_stacked:
            initial_carry = self.functions[0]
            return ensemble_carry(initial_carry, members, batch_size, condition, weights, self.mode)
        carries = [
            initial_carry(params, batch_size, condition)
            for initial_carry, params in zip(self.functions, members, strict=True)
        ]
        return ensemble_of_carry(carries, batch_size, weights, self.mode)


@dataclass(frozen=True)
class JoinedAttention:
    """`attention_fn` of an ensemble: the mean over its models, as their coverage is."""

    functions: tuple[AttentionFn, ...]
    """One a model."""
    is_stacked: bool
    """Whether the parameters are."""

    def __call__(
        self, params: JoinedParams, sources: Any, lengths: Any, targets: Any
    ) -> Float[Array, "B T S"]:
        """One pass over given targets."""
        members = params.members
        if self.is_stacked:
            count = range(len(self.functions))
            members = tuple(jax.tree.map(itemgetter(index), members) for index in count)
        found = [
            function(member, sources, lengths, targets)
            for function, member in zip(self.functions, members, strict=True)
        ]
        return jnp.stack(found).mean(axis=0)


def ensemble_model(
    models: Sequence[TextModel], weights: Any = None, mode: str = "average"
) -> TextModel:
    """One text model in which several choose each token together.

    Models whose step functions compare equal and whose parameters have the same shapes, such as
    the seeds of a run, are stacked into one. All else is that of the first.

    Args:
        models: of one tokenizer and the same labels.
        weights: one for each; None: all the same.
        mode: "average" of the distributions, or their "product" to the power of the weights, of
            which negative ones make a model an anti-expert.

    Raises:
        UserError: there are none, their tokenizers or labels differ, or the weights are out of
            their range.
    """
    first, *others = _some(models)
    for model in others:
        _check_tokenizers(first.tokenizer, model.tokenizer)
        _check_labels(first, model)
    return replace(first, **_together(models, weights, mode))


def ensemble_translator(
    models: Sequence[Translator], weights: Any = None, mode: str = "average"
) -> Translator:
    """One translator in which several choose each token together; see `ensemble_model`.

    Its attention is the mean of theirs, and its longest source the shortest of theirs.

    Args:
        models: of the same two tokenizers.
        weights: one for each; None: all the same.
        mode: "average" or "product".

    Raises:
        UserError: there are none, their tokenizers differ, or the weights are out of their range.
    """
    first, *others = _some(models)
    for model in others:
        _check_tokenizers(first.source_tokenizer, model.source_tokenizer)
        _check_tokenizers(first.tokenizer, model.tokenizer)
    functions = tuple(model.attention_fn for model in models if model.attention_fn is not None)
    fields = _together(models, weights, mode)
    attention_fn = None
    if len(functions) == len(models):
        attention_fn = JoinedAttention(functions, fields["initial_carry"].is_stacked)
    return replace(
        first,
        **fields,
        max_source_length=min(model.max_source_length for model in models),
        attention_fn=attention_fn,
    )


def _some(models: Sequence[Any]) -> Sequence[Any]:
    """The models; UserError where there are none."""
    if not models:
        raise UserError("`models` must hold at least one model, got none")
    return models


def _together(
    models: Sequence[TextModel] | Sequence[Translator], weights: Any, mode: str
) -> dict[str, Any]:
    """The parameters of the models as one, and its functions."""
    weights = row_weights(weights, 1, len(models), mode)[0]
    members = tuple(model.params for model in models)
    functions = [(model.step_fn, model.initial_carry) for model in models]
    alike = all(own == functions[0] for own in functions) and same_shapes(members)
    join: Callable[[list[Any]], Any] = (
        (lambda functions: ensemble(functions[0], mode))
        if alike
        else (lambda functions: ensemble_of(functions, mode))
    )
    readers = [model.prefill_fn for model in models]
    prefill_fn: PrefillFn | None = None
    if all(reader is not None for reader in readers):
        prefill_fn = JoinedStep(join(readers))
    starts = tuple(model.initial_carry for model in models)
    return {
        "params": JoinedParams(stacked(members) if alike else members, weights),
        "step_fn": JoinedStep(join([model.step_fn for model in models])),
        "prefill_fn": prefill_fn,
        "initial_carry": JoinedInitialCarry(starts[:1] if alike else starts, mode, alike),
    }


def _check_tokenizers(mine: Any, own: Any) -> None:
    """UserError where two models cannot choose tokens together."""
    same = mine is own or getattr(mine, "fingerprint", mine) == getattr(own, "fingerprint", own)
    if not same:
        raise UserError(
            "the models of an ensemble must have one vocabulary, got the tokenizers "
            f"{mine!r} and {own!r}"
            + (", whose tokens differ" if repr(mine) == repr(own) else "")
            + "; train one with the tokenizer of the other"
        )


def _check_labels(first: TextModel, other: TextModel) -> None:
    """UserError where two models are not conditioned alike."""
    labels = [(model.num_labels, model.labels) for model in (first, other)]
    if labels[0] != labels[1]:
        shown = [", ".join(names) or f"{count} labels" for count, names in labels]
        raise UserError(
            "the models of an ensemble must have the same labels, got "
            f"{' and '.join(shown)}; leave one of them out"
        )
