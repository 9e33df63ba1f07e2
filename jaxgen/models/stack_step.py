"""One step of a stack of LSTM layers with as few operations as possible, for loops over tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxgen.nn.inputs import project
from jaxgen.ops.lstm import LSTMCarry, lstm_step
from jaxgen.types import Array, Float

# The fold trades a matmul a step for a (V, 4H) table; past this many bytes the table no longer
# earns its memory.
_LARGEST_TABLE = 64 * 2**20

Cells = tuple[tuple[Array, Array], ...]
"""A layer's kernel [D, 4H] and bias [4H]; the kernel holds the part of what comes from below above
the recurrent one."""


def prepare_stack(
    layers: Mapping[str, Any],
    embedding: Float[Array, "V E"] | None,
    dtype: Any,
    feed_kernel: Float[Array, "A G"] | None = None,
) -> tuple[Float[Array, "V D"], Cells]:
    """Fold the embedding into the first layer and stack each layer's two kernels.

    Args:
        layers: parameters of an `LSTM` of plain layers.
        embedding: what the first layer reads; None: one-hot tokens.
        dtype: compute type of the kernels and the table.
        feed_kernel: of what the first layer reads beside the token.

    Returns:
        A row a token, the first layer's pre-activations where folded (of one-hot tokens without the
        bias), else the embedding; and the cells.
    """
    first = layers["layer_0"]
    kernel, bias, recurrent = (first[x] for x in ("input_kernel", "bias", "recurrent_kernel"))
    if feed_kernel is not None:
        recurrent = jnp.concatenate([feed_kernel, recurrent])
    if embedding is None:
        table, cells = kernel, [(recurrent, bias)]  # a sum would be a copy of the whole table
    elif 4 * len(embedding) * bias.size <= _LARGEST_TABLE:
        table = project(embedding, kernel, bias, jnp.float32)
        cells = [(recurrent, jnp.zeros_like(bias))]
    else:
        table, cells = embedding, [(jnp.concatenate([kernel, recurrent]), bias)]
    for index in range(1, len(layers)):
        layer = layers[f"layer_{index}"]
        kernel = jnp.concatenate([layer["input_kernel"], layer["recurrent_kernel"]])
        cells.append((kernel, layer["bias"]))
    return table.astype(dtype), tuple((kernel.astype(dtype), bias) for kernel, bias in cells)


def stack_step(
    cells: Cells,
    carries: tuple[LSTMCarry, ...],
    x: Float[Array, "B D"],
    *,
    residual: bool = False,
    added: Float[Array, "B G"] | None = None,
    fed: Float[Array, "B A"] | None = None,
    kept: Sequence[Float[Array, "#B H"]] = (),
) -> tuple[tuple[LSTMCarry, ...], Float[Array, "B H"]]:
    """Take one step through all layers.

    Args:
        cells: from `prepare_stack`.
        carries: one a layer.
        x: rows of the table of `prepare_stack`.
        residual: as in `jaxgen.nn.LSTM`.
        added: what is added to the pre-activations of the first layer.
        fed: what the first layer reads beside `x`, where there is a `feed_kernel`.
        kept: factors of each layer's output but the last one's, for dropout.

    Returns:
        The new carries, and the output of the last layer.
    """
    ends: list[LSTMCarry] = []
    for index, (kernel, bias) in enumerate(cells):
        c, h = carries[index]
        dtype = h.dtype
        parts = [h] if index or fed is None else [fed, h]
        folded = kernel.shape[0] == sum(part.shape[-1] for part in parts)
        parts = parts if folded else [x, *parts]
        inputs = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        a = jnp.matmul(inputs, kernel, preferred_element_type=jnp.float32) + bias
        if folded:
            a += x.astype(jnp.float32)
        if index == 0 and added is not None:
            a += added
        c, h = lstm_step(a, c)
        h = h.astype(dtype)
        ends.append(LSTMCarry(c, h))
        x = h + x if residual and index > 0 and x.shape == h.shape else h
        if kept and index + 1 < len(cells):
            x = x * kept[index]
    return tuple(ends), x


def top_output(hidden: Sequence[Float[Array, "B H"]], residual: bool) -> Float[Array, "B H"]:
    """The output of the last layer, given the hidden states of all."""
    x = hidden[0]
    for h in hidden[1:]:
        x = h + x if residual and x.shape == h.shape else h
    return x
