"""The LSTM recurrence over time, by whichever backend suits the shapes and the device."""

from jaxgen.ops.backends import RecurrenceSpec, choose_backend
from jaxgen.ops.cell import LSTMCarry, lstm_step, zero_carry
from jaxgen.ops.scan import scan_lstm
from jaxgen.types import Array, Bool, Float

__all__ = ["LSTMCarry", "lstm", "lstm_step", "zero_carry"]


def lstm(
    pre_activations: Float[Array, "T B G"],
    recurrent_kernel: Float[Array, "H G"],
    carry: LSTMCarry,
    *,
    mask: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
    """Run one LSTM layer over a time-major sequence.

    The input projection does not depend on the recurrence, so it is made outside, in one matmul
    or one table lookup for all steps. With gates in the order i, f, g, o (G = 4H):

        i, f, o = sigmoid(.), g = tanh(.)   of   pre_activations[t] + h[t-1] @ recurrent_kernel
        c[t] = f * c[t-1] + i * g
        h[t] = o * tanh(c[t])

    Args:
        pre_activations: input part of the gates' pre-activations, bias included.
        recurrent_kernel: its type is the compute type. With bfloat16 the matmuls multiply in
            bfloat16 and accumulate in float32, and the cell state stays float32.
        carry: state before the first step.
        mask: True = real step. A padded step leaves the carry alone and its output is zero.
        resets: True = start from a zero carry at this step (a document begins).
        reverse: walk from the last step to the first; `carry` then enters at the last.
        backend: `auto`, `scan` or `pallas`; see `jaxgen.ops.backends`. (`cudnn` makes the input
            projection itself, so it is `jaxgen.nn.LSTM` that can take it.)

    Returns:
        The carry after the walk, and the hidden state of every step in the compute type.

    Raises:
        UserError: the backend asked for cannot run this here.

    Source: Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000); equal to
    `torch.nn.LSTM` with its two biases added.
    """
    spec = RecurrenceSpec(
        T=pre_activations.shape[0],
        B=pre_activations.shape[1],
        H=recurrent_kernel.shape[0],
        dtype=recurrent_kernel.dtype,
        mask=mask is not None,
        resets=resets is not None,
        projected=True,
    )
    run = scan_lstm
    if choose_backend(backend, spec).name == "pallas":
        from jaxgen.ops.pallas_lstm import pallas_lstm as run
    return run(pre_activations, recurrent_kernel, carry, mask=mask, resets=resets, reverse=reverse)
