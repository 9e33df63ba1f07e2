"""A stack of LSTM layers as one cuDNN call, through `jax.experimental.rnn` (NVIDIA GPUs only)."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.experimental import rnn

from jaxgen.errors import UserError
from jaxgen.ops.cell import LSTMCarry, LSTMWeights
from jaxgen.types import Array, Float, Int


def cudnn_lstm(
    inputs: Float[Array, "T B D"],
    weights: Sequence[LSTMWeights],
    carries: Sequence[LSTMCarry],
    *,
    lengths: Int[Array, "B"] | None = None,
    bidirectional: bool = False,
) -> tuple[tuple[LSTMCarry, ...], Float[Array, "T B O"]]:
    """Run a stack of layers of one size; all arrays are float32.

    Products are made in TF32 where `jax_default_matmul_precision` leaves it to JAX, as XLA does
    with its own on these GPUs; "highest" makes them float32. It cannot be vmapped.

    Args:
        inputs: time-major.
        weights: one a layer and direction, forward before backward.
        carries: in the same order; a backward layer's enters at the last step.
        lengths: real steps of each row, padding after them; outputs beyond them are zero, and the
            carries are those at a row's last real step. A row of none is read as a row of one.
        bidirectional: every layer has two directions, whose outputs are concatenated.

    Returns:
        The carries after the walk, and the hidden states of the last layer [T, B, H or 2H].

    Raises:
        UserError: this installation of JAX has no cuDNN.
    """
    if not hasattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes"):
        raise UserError(
            "`backend` cudnn needs JAX's CUDA plugin, and it is not installed; "
            'install jaxgen[cuda] or use backend="scan"'
        )
    T, B, D = inputs.shape
    H = carries[0].h.shape[-1]
    if lengths is None:
        lengths = jnp.full((B,), T, jnp.int32)
    outputs, h, c = rnn.lstm(
        inputs.swapaxes(0, 1),
        jnp.stack([carry.h for carry in carries]),
        jnp.stack([carry.c for carry in carries]),
        pack(weights),
        jnp.maximum(lengths, 1).astype(jnp.int32),
        D,
        H,
        len(weights) // (2 if bidirectional else 1),
        False,  # dropout: its masks could not be drawn again
        bidirectional,
        None,
    )
    ends = [LSTMCarry(c[index], h[index]) for index in range(len(carries))]
    return tuple(ends), outputs.swapaxes(0, 1)


def pack(weights: Sequence[LSTMWeights]) -> Float[Array, "N"]:
    """All parameters in the one vector that cuDNN reads.

    The layout that `jax.experimental.rnn` documents: the matrices of all layers, transposed, the
    input kernel before the recurrent one; then their biases, of which cuDNN adds two (the second
    is zero here). The gates are in our order.
    """
    matrices = [
        kernel.T.reshape(-1)
        for layer in weights
        for kernel in (layer.input_kernel, layer.recurrent_kernel)
    ]
    biases = [bias for layer in weights for bias in (layer.bias, jnp.zeros_like(layer.bias))]
    return jnp.concatenate(matrices + biases)
