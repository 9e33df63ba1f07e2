"""The choice of the backend that runs the recurrence, and its reason.

| backend | runs on | compute type | mask | resets | conditions | two ways | layer norm |
|---|---|---|---|---|---|---|---|
| `scan` | everything | any | yes | yes | yes | yes | yes |
| `cudnn` | NVIDIA GPUs | float32 (products in TF32) | no | no | no | yes | no |
| `pallas` | TPUs, H a multiple of 128 | float32, bfloat16 | yes | yes | yes | yes | no |

Weight-drop changes the matrix before the backend sees it, so all have it; a bidirectional stack is
one cuDNN call, and two runs a layer of the others. cuDNN does a stack in one call where its layers
are of one size with nothing (dropout, residual) between them, else each layer in one. It cannot be
vmapped, and JAX says so when it is tried: models trained side by side under `vmap` ask for `scan`.
Rows that are padded at their end need no mask: all backends take the `lengths` of `jaxgen.nn.LSTM`.

`auto` takes the scan everywhere. On an H100 the scan, unrolled, was 1.2 to 3.8 times faster than
cuDNN over four shapes of B, T and H, forward and with gradients, and at B=16, T=1024, H=768 held a
third of its memory. The Pallas kernel has been compiled for TPUs but not measured on one. Ask for
either by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.ops import tpu

BACKENDS = ("auto", "scan", "cudnn", "pallas")


class RecurrenceSpec(NamedTuple):
    """The shapes of one recurrence, and what it needs of a backend."""

    T: int
    """Steps."""
    B: int
    """Rows."""
    H: int
    """Units."""
    dtype: Any = jnp.float32
    """Compute type."""
    mask: bool = False
    """Some steps are padding."""
    resets: bool = False
    """Some steps start from a zero carry."""
    conditioned: bool = False
    """Each row adds to the pre-activations a bias of its own."""
    cell: str = "lstm"
    projected: bool = False
    """The inputs are projected to pre-activations already, as `jaxgen.ops.lstm.lstm` takes them."""


class Choice(NamedTuple):
    """A backend, and the reason in a sentence."""

    name: str
    reason: str


class Platform(NamedTuple):
    """What a program is traced for."""

    name: str
    """`cpu`, `cuda`, `rocm` or `tpu`."""
    device_kind: str | None = None


_assumed: ContextVar[Platform | None] = ContextVar("assumed", default=None)


@contextmanager
def compiling_for(name: str, device_kind: str | None = None) -> Iterator[None]:
    """Choose as on another platform, to compile for it ahead of time.

    JAX does not know of it: what is traced inside must not be called outside.
    """
    token = _assumed.set(Platform(name, device_kind))
    try:
        yield
    finally:
        _assumed.reset(token)


def platform_here() -> Platform:
    """The platform that JAX would run on, or that of an enclosing `compiling_for`."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    name = jax.default_backend()
    if name == "cpu":
        return Platform(name)
    device = jax.devices()[0]
    if name == "gpu":
        name = "rocm" if "rocm" in device.client.platform_version else "cuda"
    return Platform(name, device.device_kind)


def choose_backend(backend: str, spec: RecurrenceSpec, platform: Platform | None = None) -> Choice:
    """Name the backend that runs a recurrence.

    Args:
        backend: `auto`, or a backend's name to insist on it.
        spec: the shapes and what has to be supported.
        platform: where; None: here.

    Raises:
        UserError: there is no such backend, or it cannot run the recurrence there.
    """
    if backend not in BACKENDS:
        raise UserError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "scan":
        return Choice("scan", "asked for")
    where = platform_here() if platform is None else platform
    if backend != "auto":
        reason = unsupported_reason(backend, spec, where)
        if reason:
            raise UserError(
                f'`backend` {backend} cannot run this: {reason}; use backend="auto", which '
                f"chooses {choose_backend('auto', spec, where).name} here"
            )
        return Choice(backend, "asked for")
    if where.name == "cuda":
        return Choice("scan", "unrolled, it was measured faster than cuDNN (on an H100)")
    if where.name == "tpu":
        return _on_tpu(spec, where)
    return Choice("scan", f"the only backend for {where.name}")


def unsupported_reason(backend: str, spec: RecurrenceSpec, where: Platform) -> str | None:
    """Why a backend cannot run a recurrence there; None where it can."""
    if backend == "scan":
        return None
    lacks = _cudnn_lacks if backend == "cudnn" else _pallas_lacks
    return lacks(spec, where)


def _on_tpu(spec: RecurrenceSpec, where: Platform) -> Choice:
    """Always the scan: the kernel has been measured on no TPU. The reason says what is modelled."""
    reason = unsupported_reason("pallas", spec, where)
    if reason is not None:
        return Choice("scan", f"the only backend that can: {reason}")
    chip = tpu.chip_of(where.device_kind)
    size = f"{4 * spec.H**2 * 2 / 2**20:.3g} MiB of recurrent matrix"
    if not tpu.scan_rereads(spec.H, chip):
        return Choice("scan", f"XLA keeps the {size} in VMEM itself; a kernel spares no traffic")
    bounds = [
        tpu.modelled_seconds(spec.T, spec.B, spec.H, spec.dtype, chip, kernel=kernel)
        for kernel in (False, True)
    ]
    gain = bounds[0]["seconds"] / bounds[1]["seconds"]
    if gain <= 1.1:
        return Choice("scan", f"at B={spec.B} the products hide the reading of the {size}")
    return Choice(
        "scan",
        f"the Pallas kernel has not been measured on a TPU yet; it reads the {size} once where XLA "
        f'reads it at every step (modelled {gain:.1f} times faster): try backend="pallas"',
    )


def _cudnn_lacks(spec: RecurrenceSpec, where: Platform) -> str | None:
    if where.name != "cuda":
        return f"cuDNN needs an NVIDIA GPU, and the platform is {where.name}"
    if spec.projected:
        return (
            "cuDNN projects the inputs itself, and here they are projected already; "
            "it is reached through jaxgen.nn.LSTM"
        )
    if spec.cell != "lstm":
        return f"cuDNN has no {spec.cell} cell"
    if jnp.dtype(spec.dtype) != jnp.float32:
        return f"JAX binds cuDNN in float32 only, and the type is {jnp.dtype(spec.dtype).name}"
    if getattr(jax.config, "jax_default_matmul_precision", None) in (
        "bfloat16",
        "default",
        "fastest",
    ):
        return "cuDNN has no bfloat16 products, which `jax_default_matmul_precision` asks for"
    lacking = {
        "mask": spec.mask,
        "resets": spec.resets,
        "bias of each row's own": spec.conditioned,
    }
    asked = [what for what, there in lacking.items() if there]
    return f"cuDNN takes no {' and no '.join(asked)}" if asked else None


def _pallas_lacks(spec: RecurrenceSpec, where: Platform) -> str | None:
    if where.name != "tpu":
        return f"the Pallas kernel needs a TPU, and the platform is {where.name}"
    if spec.cell != "lstm":
        return f"the Pallas kernel has no {spec.cell} cell"
    dtype = jnp.dtype(spec.dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"the Pallas kernel computes in float32 or bfloat16, not {dtype.name}"
    if spec.H % tpu.LANES:
        return f"the Pallas kernel needs a multiple of {tpu.LANES} units, got H={spec.H}"
    chip = tpu.chip_of(where.device_kind)
    if tpu.plan_blocks(spec.T, spec.B, spec.H, dtype, chip) is None:
        return f"H={spec.H} in {dtype.name} does not fit {chip.vmem // 2**20} MiB of VMEM"
    return None
