"""The loss of an output layer from hidden states, in blocks of rows: never all logits at once."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.ops.bias import add_bias
from jaxgen.ops.cross_entropy import cross_entropies, cross_entropy
from jaxgen.types import Array, Bool, Float, Int

BLOCK_LOGITS = 2**24
"""Logits that are held at once, 64 MiB; fewer rows would leave the matmuls less to do."""


class OutputLoss(NamedTuple):
    """Cross-entropy of the rows of a batch, in nats."""

    total: Float[Array, ""]
    """Weighted sum of the smoothed losses: what is differentiated."""
    nll: Float[Array, "N"]
    """Of each target, not smoothed. Has no gradient, as what follows."""
    hits: Bool[Array, "N"] | None
    """Whether no token has a higher logit than the target; None where not all are known."""


class Rows(NamedTuple):
    """What is known of each row beside its hidden state."""

    targets: Int[Array, "N"]
    weights: Float[Array, "N"]


def output_logits(
    hidden: Float[Array, "N H"], kernel: Float[Array, "H V"], bias: Float[Array, "V"]
) -> Float[Array, "N V"]:
    """Scores of each token, float32, by one matmul in the type of `hidden`."""
    kernel = kernel.astype(hidden.dtype)
    return add_bias(jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32), bias)


def output_loss(
    hidden: Float[Array, "N H"],
    kernel: Float[Array, "H V"],
    bias: Float[Array, "V"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
    *,
    label_smoothing: float = 0.0,
    block_rows: int | None = None,
) -> OutputLoss:
    """`cross_entropy` of `output_logits`, weighted and summed.

    Where the logits are many, rows are taken in blocks, and the gradient of a block is made along
    with its loss: no logits are held or made anew for the way back. This is what makes the
    gradient one of the sum alone, whose weights are known on the way forward. A step takes the
    three matmuls that it takes at once, and memory for one block of logits.

    Args:
        hidden: what the output layer reads.
        kernel: computed in the type of `hidden`; its gradient is summed in float32.
        bias: of each token.
        targets: in [0, V).
        weights: of each row, at least 0; a row of weight 0 counts nowhere. They are constants.
        label_smoothing: share of each target that is spread evenly over all tokens.
        block_rows: rows of a block; None: all of them up to `BLOCK_LOGITS` logits, and else as
            many as have so many.

    Source: Wijmans et al. (2025), "Cut your losses in large-vocabulary language models", for the
    aim; the blocks here are whole rows, which need no second pass over the vocabulary.
    """
    rows = Rows(targets, jax.lax.stop_gradient(weights.astype(jnp.float32)))
    if block_rows is None:
        block_rows = max(1, BLOCK_LOGITS // len(bias))
    if block_rows >= len(hidden):
        loss = _loss(label_smoothing, output_logits(hidden, kernel, bias), rows)
    else:
        loss = _blocked(label_smoothing, block_rows, hidden, kernel, bias, rows)
    return OutputLoss(loss.total, *jax.lax.stop_gradient(loss[1:]))


def loss_of_logits(
    logits_of: Callable[[Float[Array, "M H"]], Float[Array, "M V"]],
    hidden: Float[Array, "N H"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
    *,
    label_smoothing: float = 0.0,
    block_rows: int,
) -> OutputLoss:
    """As `output_loss`, of the logits that any function makes of rows.

    Those of one block are held at once; on the way back they are made anew.
    """
    rows = Rows(targets, jax.lax.stop_gradient(weights.astype(jnp.float32)))

    @jax.checkpoint
    def of_block(block: tuple[Array, Rows]) -> OutputLoss:
        return _loss(label_smoothing, logits_of(block[0]), block[1])

    if block_rows >= len(hidden):
        loss = _loss(label_smoothing, logits_of(hidden), rows)
    else:
        loss = _joined(jax.lax.map(of_block, _blocks(block_rows, (hidden, rows))), len(hidden))
    return OutputLoss(loss.total, *jax.lax.stop_gradient(loss[1:]))


def _loss(label_smoothing: float, logits: Float[Array, "N V"], rows: Rows) -> OutputLoss:
    if label_smoothing:
        nll, even = cross_entropies(logits, rows.targets)
        smoothed = (1 - label_smoothing) * nll + label_smoothing * even
    else:
        smoothed = nll = cross_entropy(logits, rows.targets)
    total = jnp.where(rows.weights > 0, rows.weights * smoothed, 0).sum()
    chosen = jnp.take_along_axis(logits, rows.targets[:, None], axis=-1)[:, 0]
    hits = chosen >= logits.max(axis=-1)  # XLA's argmax is slow on a CPU
    return OutputLoss(total, nll, hits)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocked(
    label_smoothing: float, block_rows: int, hidden: Array, kernel: Array, bias: Array, rows: Rows
) -> OutputLoss:
    kernel = kernel.astype(hidden.dtype)

    def of_block(block: tuple[Array, Rows]) -> OutputLoss:
        return _loss(label_smoothing, output_logits(block[0], kernel, bias), block[1])

    losses = jax.lax.map(of_block, _blocks(block_rows, (hidden, rows)))
    return _joined(losses, len(hidden))


def _forward(
    label_smoothing: float, block_rows: int, hidden: Array, kernel: Array, bias: Array, rows: Rows
) -> tuple[OutputLoss, tuple[Array, Array, Array]]:
    """The losses, and the gradient of their total."""
    narrow = kernel.astype(hidden.dtype)
    matmul = partial(jnp.matmul, preferred_element_type=jnp.float32)

    def add_block(sums: tuple[Array, Array], block: tuple[Array, Rows]) -> tuple:
        hidden, rows = block

        def total(logits: Array) -> tuple[Array, OutputLoss]:
            loss = _loss(label_smoothing, logits, rows)
            return loss.total, loss

        d_logits, loss = jax.grad(total, has_aux=True)(output_logits(hidden, narrow, bias))
        d_bias = jnp.ones((len(hidden),), d_logits.dtype) @ d_logits  # see `jaxgen.ops.bias`
        d_logits = d_logits.astype(hidden.dtype)
        sums = (sums[0] + matmul(hidden.T, d_logits), sums[1] + d_bias)
        return sums, (loss, matmul(d_logits, narrow.T).astype(hidden.dtype))

    zeros = jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)
    losses: OutputLoss
    d_hidden: Array
    (d_kernel, d_bias), (losses, d_hidden) = jax.lax.scan(
        add_block, zeros, _blocks(block_rows, (hidden, rows))
    )
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: len(hidden)]
    gradients = d_hidden, d_kernel.astype(kernel.dtype), d_bias.astype(bias.dtype)
    return _joined(losses, len(hidden)), gradients


def _backward(
    label_smoothing: float, block_rows: int, gradients: tuple[Array, ...], d_loss: OutputLoss
) -> tuple:
    scaled = (d_loss.total.astype(gradient.dtype) * gradient for gradient in gradients)
    return (*scaled, None)


_blocked.defvjp(_forward, _backward)


def _blocks(block_rows: int, rows: tuple[Array, Rows]) -> tuple[Array, Rows]:
    """Rows [N, ...] as blocks of one size, filled up with rows of zeros, hence of weight 0."""
    count = -(-len(rows[0]) // block_rows)
    size = -(-len(rows[0]) // count)

    def divided(x: Array) -> Array:
        fill = ((0, count * size - len(x)), *((0, 0),) * (x.ndim - 1))
        return jnp.pad(x, fill).reshape(count, size, *x.shape[1:])

    return jax.tree.map(divided, rows)


def _joined(losses: OutputLoss, rows: int) -> OutputLoss:
    """The losses of all blocks, without what filled the last."""
    each = jax.tree.map(lambda x: x.reshape(-1)[:rows], losses[1:])
    return OutputLoss(losses.total.sum(), *each)
