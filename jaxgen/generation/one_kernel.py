"""A loop over single vectors compiled as one CPU kernel.

XLA runs a program on the CPU as a sequence of small kernels, and a step of a small recurrent model
at batch 1 takes no longer than calling its thirty of them. XLA itself compiles loops that touch
little memory as one kernel; a call that carries the attributes below is treated as such a loop
whatever its size. Matrix-vector products lose nothing by it (they are inlined anyway). What XLA
leaves to a library cannot be compiled so, and a loop with that in it is left as it is.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxgen.types import PyTree

# Beginnings of the names of primitives that XLA's CPU backend calls a library for.
_LIBRARY = (
    *("sort", "top_k", "scatter", "fft", "conv_general", "ffi_call", "custom_call"),
    *("pure_callback", "io_callback", "debug_callback", "debug_print"),
    *("cholesky", "lu", "qr", "svd", "eig", "householder", "schur", "triangular", "tridiagonal"),
)
# What it says where it finds something else that it cannot compile so.
_REFUSALS = ("UNIMPLEMENTED", "Failed to materialize symbols")
_LARGEST_VOCABULARY = 1024
_LARGEST_MODEL = 2 * 2**20
"""Bytes of parameters; of larger models XLA gives several cores a part of each product."""
_refused: set[Any] = set()


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, as a call that XLA's CPU backend compiles into a single kernel if it can."""

    def plain(*arguments: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):  # for the call alone
            return function(*arguments)

    def call(*arguments: Any) -> Any:
        kernel = jax.jit(plain)
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            # Looked at first, because XLA complains loudly of what it must refuse.
            if not any(map(_calls_library, _equations(jax.make_jaxpr(kernel)(*arguments)))):
                return kernel(*arguments)
        return function(*arguments)

    return call


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, those of its loops and branches included."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(part, "jaxpr", part), "eqns"):
                    yield from _equations(part)


def _calls_library(equation: Any) -> bool:
    name = equation.primitive.name
    if name != "dot_general":
        return name.startswith(_LIBRARY)
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left, right = (of.aval for of in equation.invars)
    depth, batch = (math.prod(left.shape[d] for d in of) for of in (contracted, batched))
    of_a_vector = equation.outvars[0].aval.size * depth == max(left.size, right.size)
    return batch > 1 or not of_a_vector


def fits(params: PyTree, vocab_size: int) -> bool:
    """Whether a model is so small that its products need no library."""
    return is_small(params) and vocab_size <= _LARGEST_VOCABULARY


def is_small(params: PyTree) -> bool:
    """Whether the parameters fit the cache of a single core."""
    size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(params))
    return size <= _LARGEST_MODEL


def fused_where_it_pays(
    call: Callable[[bool], Any], place: Any, rows: int, fitting: bool, arguments: Any
) -> Any:
    """`call(fused)`: fused for a single row on a CPU, unless XLA refused it at this place before.

    Args:
        call: runs a jitted function; `fused` asks for `one_kernel` inside.
        place: what the program depends on; remembered where XLA refuses.
        rows: the batch size.
        fitting: what `fits` says.
        arguments: of the jitted function. Inside another transformation its compilation is not
            ours to try, and the loop is left as it is.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arguments))
    wanted = rows == 1 and fitting and not traced and jax.default_backend() == "cpu"
    if wanted and place not in _refused:
        try:
            return call(True)
        except jax.errors.JaxRuntimeError as error:
            if not any(refusal in str(error) for refusal in _REFUSALS):
                raise
            _refused.add(place)
    return call(False)
