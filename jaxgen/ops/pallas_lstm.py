"""The recurrence as one TPU kernel a pass: the recurrent matrix stays in VMEM for all steps.

The grid walks blocks of rows and, within them, blocks of time in order; the state between two time
blocks stays in scratch memory while the pipeline fetches the next block's pre-activations. The
backward pass is a second kernel that walks the other way, and the gradient of the matrix is one
matmul outside, as in `jaxgen.ops.scan`. It keeps `c` before each step and the activations, from
which it computes `c` after the step again, so that no shifted copy of `c` is needed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxgen.errors import UserError
from jaxgen.ops import tpu
from jaxgen.ops.backends import platform_here
from jaxgen.ops.cell import LSTMCarry, cell
from jaxgen.ops.scan import shifted
from jaxgen.types import Array, Bool, Float


class _Settings(NamedTuple):
    """What is fixed when the kernels are traced."""

    blocks: tpu.Blocks
    reverse: bool
    """The forward pass walks from the last step to the first."""
    interpret: bool


def pallas_lstm(
    pre_activations: Float[Array, "T B G"],
    recurrent_kernel: Float[Array, "H G"],
    carry: LSTMCarry,
    *,
    mask: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reverse: bool = False,
    blocks: tpu.Blocks | None = None,
    interpret: bool = False,
) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
    """As `jaxgen.ops.lstm.lstm`, on a TPU, for H a multiple of 128.

    Args:
        pre_activations: as there.
        recurrent_kernel: as there.
        carry: as there.
        mask: as there.
        resets: as there.
        reverse: as there.
        blocks: how to cut the work; None: `jaxgen.ops.tpu.plan_blocks`.
        interpret: run the kernel's operations one by one on any device (for tests).

    Raises:
        UserError: the matrix and one step do not fit the chip's vector memory.
    """
    T, B, _ = pre_activations.shape
    H, dtype = recurrent_kernel.shape[0], recurrent_kernel.dtype
    if blocks is None:
        chip = tpu.chip_of(platform_here().device_kind)
        blocks = tpu.plan_blocks(T, B, H, dtype, chip)
    if blocks is None:
        raise UserError(
            f"the Pallas kernel holds the recurrent matrix in vector memory, and H={H} in "
            f'{dtype.name} does not fit; use backend="scan"'
        )
    flags = None
    if mask is not None or resets is not None:
        real = jnp.ones((T, B), bool) if mask is None else mask
        fresh = jnp.zeros((T, B), bool) if resets is None else resets
        flags = jnp.stack([real, fresh], axis=-1).astype(jnp.float32)
    settings = _Settings(blocks, reverse, interpret)
    return _lstm(settings, pre_activations, recurrent_kernel, carry, flags)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(
    settings: _Settings,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    flags: Array | None,
) -> tuple[LSTMCarry, Array]:
    end, outputs, _ = _run_forward(settings, pre_activations, kernel, carry, flags, keep=False)
    return end, outputs


def _forward(
    settings: _Settings,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    flags: Array | None,
) -> tuple[tuple[LSTMCarry, Array], tuple]:
    end, outputs, kept = _run_forward(settings, pre_activations, kernel, carry, flags, keep=True)
    c_before, activations, *h_before = kept
    # Without flags the outputs are the hidden states, and `h` before each step is a shift of them.
    h = h_before[0] if h_before else outputs
    dtype = jnp.zeros((), pre_activations.dtype)  # a residual must be an array
    return (end, outputs), (kernel, carry.h, flags, c_before, h, activations, dtype)


def _backward(
    settings: _Settings, residuals: tuple, cotangents: tuple[LSTMCarry, Array]
) -> tuple[Array, Array, LSTMCarry, Array | None]:
    kernel, first_h, flags, c_before, h, activations, dtype = residuals
    d_end, d_outputs = cotangents
    h_before = shifted(h, first_h, settings.reverse) if flags is None else h
    d_start, d_pre_activations = _run_backward(
        settings, kernel, flags, c_before, activations, d_outputs, d_end
    )
    d_kernel = _matmul(
        h_before.reshape(-1, kernel.shape[0]).T, d_pre_activations.reshape(-1, kernel.shape[1])
    )
    d_start = LSTMCarry(d_start.c, d_start.h.astype(first_h.dtype))
    d_flags = None if flags is None else jnp.zeros_like(flags)
    return d_pre_activations.astype(dtype.dtype), d_kernel.astype(kernel.dtype), d_start, d_flags


_lstm.defvjp(_forward, _backward)


def _run_forward(
    settings: _Settings,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    flags: Array | None,
    *,
    keep: bool,
) -> tuple[LSTMCarry, Array, list[Array]]:
    T, B, _ = pre_activations.shape
    H, dtype = kernel.shape[0], kernel.dtype
    outputs = [((T, B, H), dtype)]
    if keep:
        outputs += [((T, B, H), jnp.float32), ((T, B, 4 * H), dtype)]
        outputs += [] if flags is None else [((T, B, H), dtype)]
    (c, h), arrays = _call(
        partial(_forward_kernel, flagged=flags is not None, keep=keep),
        settings,
        backwards=settings.reverse,
        over_time=[pre_activations, *([] if flags is None else [flags])],
        matrix=kernel,
        state=(carry.c, carry.h),
        outputs=outputs,
    )
    return LSTMCarry(c, h), arrays[0], arrays[1:]


def _run_backward(
    settings: _Settings,
    kernel: Array,
    flags: Array | None,
    c_before: Array,
    activations: Array,
    d_outputs: Array,
    d_end: LSTMCarry,
) -> tuple[LSTMCarry, Array]:
    over_time = [d_outputs, c_before, activations, *([] if flags is None else [flags])]
    (c, h), arrays = _call(
        partial(_backward_kernel, flagged=flags is not None),
        settings,
        backwards=not settings.reverse,
        over_time=over_time,
        matrix=kernel.T,
        state=(d_end.c.astype(jnp.float32), d_end.h.astype(jnp.float32)),
        outputs=[(activations.shape, kernel.dtype)],
    )
    return LSTMCarry(c, h), arrays[0]


def _call(
    body: Any,
    settings: _Settings,
    *,
    backwards: bool,
    over_time: list[Array],
    matrix: Array,
    state: tuple[Array, Array],
    outputs: Sequence[tuple[tuple[int, ...], Any]],
) -> tuple[list[Array], list[Array]]:
    """Run `body` for every step: arrays [T, B, ...] in and out by blocks, a state [B, H] along."""
    (rows, steps, vmem), (T, B) = settings.blocks, over_time[0].shape[:2]
    last = T // steps - 1

    def by_time(size: int) -> pl.BlockSpec:
        return pl.BlockSpec(
            (steps, rows, size), lambda row, time: (last - time if backwards else time, row, 0)
        )

    by_row = pl.BlockSpec((rows, state[0].shape[1]), lambda row, time: (row, 0))
    # One buffer: the matrix is the same for all blocks, so it is fetched once.
    whole = pl.BlockSpec(matrix.shape, lambda row, time: (0, 0), pipeline_mode=pl.Buffered(1))
    results = pl.pallas_call(
        partial(_blocks_in_order, body, steps=steps, backwards=backwards, num_in=len(over_time)),
        grid=(B // rows, T // steps),
        in_specs=[whole, by_row, by_row, *(by_time(x.shape[2]) for x in over_time)],
        out_specs=[by_row, by_row, *(by_time(shape[2]) for shape, _ in outputs)],
        out_shape=[
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in state),
            *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs),
        ],
        scratch_shapes=[pltpu.VMEM((rows, x.shape[1]), x.dtype) for x in state],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=vmem + 8 * 2**20
        ),
        interpret=settings.interpret,
    )(matrix, *state, *over_time)
    return list(results[:2]), list(results[2:])


def _blocks_in_order(body: Any, *refs: Any, steps: int, backwards: bool, num_in: int) -> None:
    """One block of time: the state comes from scratch memory, or at the first block from outside.

    `refs`: the matrix, the state's start, `num_in` inputs, the state's end, outputs, the scratch.
    """
    matrix, *starts = refs[:3]
    inputs, ends, outputs, memory = (
        refs[3 : 3 + num_in],
        refs[3 + num_in : 5 + num_in],
        refs[5 + num_in : -2],
        refs[-2:],
    )
    time = pl.program_id(1)

    @pl.when(time == 0)
    def _() -> None:
        for ref, start in zip(memory, starts, strict=True):
            ref[...] = start[...]

    def step(index: Array, _: None) -> None:
        t = steps - 1 - index if backwards else index
        body(matrix, *memory, [ref.at[t] for ref in inputs], [ref.at[t] for ref in outputs])

    jax.lax.fori_loop(0, steps, step, None)

    @pl.when(time == pl.num_programs(1) - 1)
    def _() -> None:
        for end, ref in zip(ends, memory, strict=True):
            end[...] = ref[...]


def _forward_kernel(
    matrix: Any, c: Any, h: Any, inputs: list, outputs: list, *, flagged: bool, keep: bool
) -> None:
    """One step; the references hold [rows, ...] of this step."""
    carry = LSTMCarry(c[...], h[...])
    start = carry
    if flagged:
        real, fresh = _flags(inputs[1])
        start = LSTMCarry(jnp.where(fresh, 0.0, carry.c), jnp.where(fresh, 0, carry.h))
        start = LSTMCarry(start.c, start.h.astype(carry.h.dtype))
    pre_activation = inputs[0][...].astype(jnp.float32) + _matmul(start.h, matrix[...])
    new_c, new_h, activations = cell(pre_activation, start.c)
    new_h = new_h.astype(h.dtype)
    output = new_h
    if flagged:
        output = jnp.where(real, new_h, 0).astype(new_h.dtype)
        new_c = jnp.where(real, new_c, carry.c)
        new_h = jnp.where(real, new_h, carry.h)
    c[...], h[...], outputs[0][...] = new_c, new_h, output
    if keep:
        outputs[1][...] = start.c
        outputs[2][...] = jnp.concatenate(activations, axis=-1).astype(h.dtype)
        if flagged:
            outputs[3][...] = start.h


def _backward_kernel(
    matrix: Any, d_c: Any, d_h: Any, inputs: list, outputs: list, *, flagged: bool
) -> None:
    """One step back; `matrix` is the transposed kernel [4H, H]."""
    d_output, c_before, activations = (ref[...].astype(jnp.float32) for ref in inputs[:3])
    i, f, g, o = jnp.split(activations, 4, axis=-1)
    d_carry = LSTMCarry(d_c[...], d_h[...])
    through_h = d_carry.h + d_output
    tanh_c = jnp.tanh(f * c_before + i * g)
    through_c = d_carry.c + through_h * o * (1 - tanh_c * tanh_c)
    d_pre_activations = jnp.concatenate(
        [
            through_c * g * (i * (1 - i)),
            through_c * c_before * (f * (1 - f)),
            through_c * i * (1 - g * g),
            through_h * tanh_c * (o * (1 - o)),
        ],
        axis=-1,
    )
    if flagged:
        real, fresh = _flags(inputs[3])
        d_pre_activations = jnp.where(real, d_pre_activations, 0.0)
    d_pre_activations = d_pre_activations.astype(matrix.dtype)
    before = LSTMCarry(through_c * f, _matmul(d_pre_activations, matrix[...]))
    if flagged:
        before = LSTMCarry(*(jnp.where(fresh, 0.0, d) for d in before))
        before = jax.tree.map(partial(jnp.where, real), before, d_carry)
    d_c[...], d_h[...], outputs[0][...] = before.c, before.h, d_pre_activations


def _flags(ref: Any) -> tuple[Array, Array]:
    """Whether each row's step is real, and whether it starts afresh, each [rows, 1]."""
    flags = ref[...]
    return flags[:, 0:1] > 0, flags[:, 1:2] > 0


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
