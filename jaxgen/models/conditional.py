"""The loss of a language model that is conditioned on a label: whole texts, a label a row."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.language_model import LanguageModel
from jaxgen.nn.inputs import real_steps
from jaxgen.types import Array, Float, LossAux, PyTree, Sum


def conditional_loss(
    model: LanguageModel,
    params: PyTree,
    carry: PyTree,
    batch: Any,
    key: Array | None = None,
) -> tuple[Float[Array, ""], LossAux]:
    """Cross-entropy of the next token of texts that each begin anew, under their labels.

    Args:
        model: the module, with `num_labels`.
        params: its parameters.
        carry: passed through: no text goes on in the next batch.
        batch: `tokens` Int[B, T + 1], of which the first T are inputs and the last T targets;
            `lengths` Int[B], real tokens of each row: padding is no target; `labels` Int[B].
        key: random key of dropout; None switches dropout off.

    Returns:
        The scalar to differentiate, nats per token, and the sum of nats "nll" over the targets.
    """
    tokens = batch.tokens.T
    real = real_steps(len(tokens) - 1, batch.lengths - 1).reshape(-1)

    def run(model: LanguageModel) -> Array:
        first = model.first_carry(tokens.shape[1], batch.labels)
        # Padding stands after the real steps, so that what is made of it goes nowhere.
        _, hidden = model.hidden_states(tokens[:-1], first, deterministic=key is None)
        hidden = hidden if key is None else model.output_dropout(hidden)
        rows = hidden.reshape(-1, hidden.shape[-1])
        weights = real.astype(jnp.float32)
        return model.losses(rows, tokens[1:].reshape(-1), weights, hits=False).total

    rngs = None if key is None else {"dropout": key}
    nll: Any = nn.apply(run, model)({"params": params}, rngs=rngs)
    count = real.sum().astype(jnp.float32)
    return nll / jnp.maximum(count, 1), LossAux(carry, {"nll": Sum(nll, count)}, count)
