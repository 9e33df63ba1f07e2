"""A loop over single vectors compiled as one CPU kernel.

XLA runs a program on the CPU as a sequence of small kernels, and a step of a small recurrent model
at batch 1 takes less time than calling its twenty of them. XLA itself compiles loops that touch
little memory as one kernel; a call that carries the attributes below is treated as such a loop
whatever its size. Matrix-vector products lose nothing by it (they are inlined anyway); products of
matrices would lose the library's. Not every operation can be compiled so: then compilation fails,
and the caller must do without.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, as a call that XLA's CPU backend compiles into a single kernel."""

    def call(*arguments: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return jax.jit(function)(*arguments)

    return call
