"""The nats per token of several language models as one."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.generation.decoding import prepared, select_rows
from jaxgen.generation.text import TextModel
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Float, LossAux, PyTree, Sum


def text_loss(
    lm: TextModel, params: PyTree, carry: PyTree, batch: Any, key: Array | None = None
) -> tuple[Float[Array, ""], LossAux]:
    """As `jaxgen.models.conditional.conditional_loss`, of anything with a step function.

    Takes and gives what that does, and `lm` in the place of the module.
    """
    tokens = batch.tokens
    first = lm.initial_carry(params, tokens.shape[0], batch.labels)
    mask = jnp.arange(1, tokens.shape[1]) < batch.lengths[:, None]
    loss, aux = step_loss(lm, params, first, {"tokens": tokens, "mask": mask})
    return loss, aux._replace(carry=carry)


def step_loss(
    lm: TextModel, params: PyTree, carry: PyTree, batch: Any, key: Array | None = None
) -> tuple[Float[Array, ""], LossAux]:
    """As `jaxgen.models.language_model.language_model_loss`, of anything with a step function.

    Args:
        lm: the model; its parameters are not looked at.
        params: in their place.
        carry: as `lm.initial_carry` gives it.
        batch: `tokens` Int[B, T+1], `mask` Bool[B, T] and, where documents begin anew, `resets`
            Bool[B, T].
        key: not used.

    Returns:
        Mean nats per token; the carry, and the sum "nll" with its token count.
    """
    tokens, mask = batch["tokens"], batch["mask"]
    resets = batch.get("resets", jnp.zeros_like(mask))
    first = lm.initial_carry(params, tokens.shape[0], None)
    params = prepared(lm.step_fn, params)

    def step(carry: PyTree, now: tuple[Array, ...]) -> tuple[PyTree, Array]:
        token, target, real, reset = now
        before = select_rows(reset, first, carry)
        after, logits = lm.step_fn(params, before, token)
        nll = jnp.where(real, cross_entropy(logits, target), 0).sum()
        return select_rows(~real, before, after), nll

    columns = (tokens[:, :-1].T, tokens[:, 1:].T, mask.T, resets.T)
    carry, nll = jax.lax.scan(step, carry, columns)
    total, count = nll.sum(), mask.sum().astype(jnp.float32)
    return total / jnp.maximum(count, 1), LossAux(carry, {"nll": Sum(total, count)}, count)
