"""`jit_with_fused_loop`: a loop over single vectors compiled as one CPU kernel.

XLA runs a program on the CPU as a sequence of small kernels, and a step of a small recurrent model
at batch 1 takes no longer than calling its thirty of them. XLA itself compiles loops that touch
little memory as one kernel; a call that carries the attributes below is treated as such a loop
whatever its size. Matrix-vector products lose nothing by it (they are inlined anyway). What XLA
leaves to a library cannot be compiled so, and a loop with that in it is left as it is.

A program that contains such a loop is compiled by `jit_with_fused_loop` in the place of `jax.jit`,
and calls the loop through `fuse_loop`. Nothing else needs to know.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
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
_fusing: ContextVar[bool] = ContextVar("fusing", default=False)
"""Whether the program that is being traced, of a small model, may fuse its loop."""


def jit_with_fused_loop(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit(function, **options)`, with the loop given to `fuse_loop` in one kernel if it may.

    Where XLA refuses to compile the fused program, the plain one runs from then on. Inside another
    transformation compilation is not ours to try, and the loop stays as it is.

    Args:
        function: takes the parameters first, and static arguments by keyword.
        **options: of `jax.jit`.
    """
    names = ("fused", *options.pop("static_argnames", ()))
    refused: set[Any] = set()

    def traced(*arguments: Any, fused: bool, **static: Any) -> Any:
        with _allow(fused):
            return function(*arguments, **static)

    given = signature(function)
    flag = Parameter("fused", Parameter.KEYWORD_ONLY)
    traced.__name__ = function.__name__
    traced.__signature__ = given.replace(  # type: ignore[attr-defined]
        parameters=[*given.parameters.values(), flag]
    )
    program = jax.jit(traced, static_argnames=names, **options)

    @wraps(function)
    def call(*arguments: Any, **static: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return program(*arguments, fused=_fusing.get(), **static)
        kind = (structure, *static.items())
        wanted = jax.default_backend() == "cpu" and is_small(arguments[0])
        if wanted and not (refused and kind in refused):
            try:
                return program(*arguments, fused=True, **static)
            except jax.errors.JaxRuntimeError as error:
                if not any(refusal in str(error) for refusal in _REFUSALS):
                    raise
                refused.add(kind)
        return program(*arguments, fused=False, **static)

    call.clear_cache = program.clear_cache  # type: ignore[attr-defined]
    call._cache_size = program._cache_size  # type: ignore[attr-defined]
    return call


@contextmanager
def _allow(fused: bool) -> Iterator[None]:
    token = _fusing.set(fused)
    try:
        yield
    finally:
        _fusing.reset(token)


def fuse_loop(loop: Callable[..., Any], rows: int, vocab_size: int) -> Callable[..., Any]:
    """`loop` in one kernel if its program may fuse it and it pays: for one row, few tokens."""
    pays = rows == 1 and vocab_size <= _LARGEST_VOCABULARY
    return one_kernel(loop) if _fusing.get() and pays else loop


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


def is_small(params: PyTree) -> bool:
    """Whether the parameters fit the cache of a single core."""
    size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(params))
    return size <= _LARGEST_MODEL
