"""Ensembles: several models that choose each token together, as one step function.

    product:  log p = sum_m w_m log p_m       (up to a constant)
    average:  log p = log sum_m w_m p_m

Negative weights of a product make a model an anti-expert (DExperts: Liu et al., 2021), as in
`weights=[1, 2, -2]` for a base model, an expert and an anti-expert.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.coverage import attention
from jaxgen.generation.decoding import prepared
from jaxgen.generation.mixing import average, product
from jaxgen.types import Array, Bool, Float, Int, PyTree

_JOIN = {"product": product, "average": average}
Function = Callable[..., tuple[PyTree, Array]]
"""A step function or a prefill function."""


class EnsembleCarry(NamedTuple):
    """The state of an ensemble of M models."""

    carries: PyTree
    """Of `ensemble`: the models' carries, [B, M, ...] or scalars that all rows and models share.
    Of `ensemble_of`: a tuple of the models' carries."""
    weights: Float[Array, "B M"]
    """They ride along unchanged."""


class _Members(NamedTuple):
    """Parameters of the models of an ensemble, each by itself."""

    params: tuple[PyTree, ...]


@dataclass(frozen=True)
class EnsembleStep:
    """`ensemble(function)`: one model with M sets of parameters, stacked on axis 0."""

    function: Function
    mode: str = "product"

    def __call__(
        self, params: PyTree, carry: EnsembleCarry, tokens: Int[Array, "B *T"], *mask: Array
    ) -> tuple[EnsembleCarry, Float[Array, "B *T V"]]:
        """One step, or one pass over a prompt with its mask."""
        carries, weights = carry
        if isinstance(params, _Members):
            return self._one_by_one(params.params, carry, tokens)
        _check_count(jax.tree.leaves(params)[0].shape[0], weights)

        def member(params: PyTree, carry: PyTree) -> tuple[PyTree, Array]:
            return self.function(params, carry, tokens, *mask)

        rows = jax.tree.map(lambda x: 1 if jnp.ndim(x) else None, carries)
        after, logits = jax.vmap(member, in_axes=(0, rows))(params, carries)
        logits = _join(self.mode, jnp.swapaxes(logits, 0, 1), weights)
        return EnsembleCarry(jax.tree.map(_rows_first, after), weights), logits

    def _one_by_one(
        self, members: tuple[PyTree, ...], carry: EnsembleCarry, tokens: Int[Array, "B"]
    ) -> tuple[EnsembleCarry, Float[Array, "B V"]]:
        carries, weights = carry
        _check_count(len(members), weights)
        outputs = [
            self.function(params, jax.tree.map(partial(_member, index=index), carries), tokens)
            for index, params in enumerate(members)
        ]
        after, logits = jax.tree.map(_beside, *outputs)
        return EnsembleCarry(after, weights), _join(self.mode, logits, weights)

    def prepare(self, params: PyTree) -> PyTree:
        """The parameters of each model as its own loop wants them.

        On a CPU they are taken apart: it multiplies several matrices one by one in any case, and
        faster where they do not have to be cut out of one array.
        """
        if jax.default_backend() != "cpu":
            return jax.vmap(partial(prepared, self.function))(params)
        count = jax.tree.leaves(params)[0].shape[0]
        members = (jax.tree.map(itemgetter(index), params) for index in range(count))
        return _Members(tuple(prepared(self.function, member) for member in members))

    @property
    def attention(self) -> Any:
        """The mean over the models, if they attend to something."""
        return self._attention if getattr(self.function, "attention", None) else None

    def _attention(self, params: PyTree, carry: EnsembleCarry) -> tuple[Array, Array]:
        count = carry.weights.shape[1]
        if not isinstance(params, _Members):
            members = (jax.tree.map(itemgetter(index), params) for index in range(count))
            params = _Members(tuple(members))
        carries = (jax.tree.map(partial(_member, index=i), carry.carries) for i in range(count))
        return _mean_attention([self.function] * count, params.params, tuple(carries))


@dataclass(frozen=True)
class EnsembleOfStep:
    """`ensemble_of(functions)`: different models; params and carries are tuples."""

    functions: tuple[Function, ...]
    mode: str = "product"

    def __call__(
        self,
        params: Sequence[PyTree],
        carry: EnsembleCarry,
        tokens: Int[Array, "B *T"],
        *mask: Array,
    ) -> tuple[EnsembleCarry, Float[Array, "B *T V"]]:
        """One step, or one pass over a prompt with its mask."""
        for of in (params, carry.carries):
            if len(of) != len(self.functions):
                raise UserError(
                    f"an ensemble of {len(self.functions)} models needs as many sets of "
                    f"parameters and carries, got {len(of)}"
                )
        _check_count(len(self.functions), carry.weights)
        outputs = [
            function(params, carry, tokens, *mask)
            for function, params, carry in zip(self.functions, params, carry.carries, strict=True)
        ]
        sizes = [logits.shape[-1] for _, logits in outputs]
        if len(set(sizes)) > 1:
            raise UserError(
                "the models of an ensemble must have one vocabulary, got "
                f"{' and '.join(map(str, sizes))} tokens; train them with the same tokenizer"
            )
        logits = jnp.stack([logits.astype(jnp.float32) for _, logits in outputs], axis=1)
        after = EnsembleCarry(tuple(carry for carry, _ in outputs), carry.weights)
        return after, _join(self.mode, logits, carry.weights)

    def prepare(self, params: Sequence[PyTree]) -> tuple[PyTree, ...]:
        """The parameters of each model as its own loop wants them."""
        return tuple(map(prepared, self.functions, params))

    @property
    def attention(self) -> Any:
        """The mean over the models, if all attend to something."""
        all_do = all(getattr(function, "attention", None) for function in self.functions)
        return self._attention if all_do else None

    def _attention(self, params: Sequence[PyTree], carry: EnsembleCarry) -> tuple[Array, Array]:
        return _mean_attention(self.functions, params, carry.carries)


def ensemble(function: Function, mode: str = "product") -> EnsembleStep:
    """A step function of M models of one shape, whose parameters are stacked on axis 0.

    The seeds of one run are such models. `ensemble_carry` makes the carry.

    Args:
        function: a step function, or a prefill function (the result is then one, too).
        mode: "product" of the distributions, each to the power of its weight, or their weighted
            "average". The logits of a product are not normalised.

    Raises:
        UserError: there is no such mode; when it is called, for a wrong number of weights.
    """
    _check_mode(mode)
    return EnsembleStep(function, mode)


def ensemble_of(functions: Sequence[Function], mode: str = "product") -> EnsembleOfStep:
    """A step function of different models of one vocabulary.

    Its parameters are a tuple of theirs, its carry `ensemble_of_carry` of theirs.

    Args:
        functions: step functions, or prefill functions.
        mode: as in `ensemble`.

    Raises:
        UserError: no functions or no such mode; when it is called, for different vocabularies or
            a wrong number of weights, parameters or carries.
    """
    _check_mode(mode)
    if not functions:
        raise UserError("`functions` must hold at least one step function, got none")
    return EnsembleOfStep(tuple(functions), mode)


def ensemble_carry(
    initial_carry: Callable[[PyTree, int, PyTree], PyTree],
    params: PyTree,
    batch_size: int,
    condition: PyTree = None,
    weights: Any = None,
    mode: str = "product",
) -> EnsembleCarry:
    """The carry before the first token of `ensemble`.

    Args:
        initial_carry: `initial_carry(params, batch_size, condition)` of one model.
        params: of all models, stacked on axis 0.
        batch_size: rows.
        condition: what all models are conditioned on.
        weights: [M] for all rows or [B, M]; None: 1 / M. Traced.
        mode: that of the ensemble, for which the weights are checked.

    Raises:
        UserError: there is not one weight a model, or weights are not finite, all 0 in a row, or
            negative in an average.
    """
    count = jax.tree.leaves(params)[0].shape[0]
    weights = row_weights(weights, batch_size, count, mode)
    carries = jax.vmap(lambda params: initial_carry(params, batch_size, condition))(params)
    return EnsembleCarry(jax.tree.map(_rows_first, carries), weights)


def ensemble_of_carry(
    carries: Sequence[PyTree], batch_size: int, weights: Any = None, mode: str = "product"
) -> EnsembleCarry:
    """The carry of `ensemble_of`, from a carry of each model; as `ensemble_carry`."""
    return EnsembleCarry(tuple(carries), row_weights(weights, batch_size, len(carries), mode))


def _mean_attention(
    functions: Sequence[Function], params: Sequence[PyTree], carries: Sequence[PyTree]
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """Of models that read one source."""
    found = [attention(*member) for member in zip(functions, params, carries, strict=True)]
    weights = jnp.stack([weights.astype(jnp.float32) for weights, _ in found])
    return weights.mean(axis=0), found[0][1]


def _join(mode: str, logits: Float[Array, "B M *T V"], weights: Float[Array, "B M"]) -> Array:
    return _JOIN[mode](logits, weights)


def _member(x: Array, index: int) -> Array:
    """[B, M, ...] -> [B, ...] of one model; what all share stays."""
    return x[:, index] if jnp.ndim(x) else x


def _beside(*members: Array) -> Array:
    """[B, ...] of each model -> [B, M, ...]; of what all rows share, the first model's."""
    return jnp.stack(members, axis=1) if jnp.ndim(members[0]) else members[0]


def _rows_first(x: Array) -> Array:
    """[M, B, ...] -> [B, M, ...]; what all rows share, [M], -> the first model's."""
    return jnp.swapaxes(x, 0, 1) if jnp.ndim(x) > 1 else x[0]


def row_weights(weights: Any, batch_size: int, count: int, mode: str) -> Array:
    """The weights of M models, [B, M], checked where they are known; see `ensemble_carry`."""
    _check_mode(mode)
    weights = np.full(count, 1 / count) if weights is None else weights
    traced = isinstance(weights, jax.core.Tracer)
    values: Any = weights.astype(jnp.float32) if traced else np.asarray(weights, np.float32)
    if values.shape not in ((count,), (batch_size, count)):
        raise UserError(
            f"`weights` must hold one number for each of the {count} models, or [{batch_size}, "
            f"{count}], got shape {values.shape}"
        )
    if not traced:
        if not np.isfinite(values).all():
            raise UserError(f"`weights` must be finite, got {values[~np.isfinite(values)][0]}")
        if mode == "average" and (values < 0).any():
            raise UserError(
                f"`weights` of an average must be 0 or more, got {values.min()}; "
                "the product takes negative ones"
            )
        if not (values != 0).any(axis=-1).all():
            raise UserError("`weights` must not all be 0, or no model would have a say")
    return jnp.broadcast_to(jnp.asarray(values), (batch_size, count))


def _check_count(count: int, weights: Array) -> None:
    if weights.shape[1] != count:
        raise UserError(
            f"an ensemble of {count} models needs as many weights a row, got {weights.shape[1]}"
        )


def _check_mode(mode: str) -> None:
    if mode not in _JOIN:
        raise UserError(f"`mode` must be one of {', '.join(_JOIN)}, got {mode!r}")
