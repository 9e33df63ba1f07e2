"""A loop over single vectors compiled as one CPU kernel.

XLA runs a program on the CPU as a sequence of small kernels, and a step of a small recurrent model
at batch 1 takes no longer than calling its thirty of them. XLA itself compiles loops that touch
little memory as one kernel; a call that carries the attributes below is treated as such a loop
whatever its size. Matrix-vector products lose nothing by it (they are inlined anyway); products of
matrices would lose the library's. Not every operation can be compiled so: then compilation fails,
and the caller must do without.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import PyTree

_REFUSALS = (
    "UNIMPLEMENTED",
    "Failed to materialize symbols",  # a sort, and with it top-k
)
_LARGEST_VOCABULARY = 1024
_LARGEST_MODEL = 2 * 2**20
"""Bytes of parameters; of larger models XLA gives several cores a part of each product."""
_refused: set[Any] = set()


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, as a call that XLA's CPU backend compiles into a single kernel."""

    def plain(*arguments: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):  # for the call alone
            return function(*arguments)

    def call(*arguments: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return jax.jit(plain)(*arguments)

    return call


def fits(
    params: PyTree, sampling: SamplingParams, vocab_size: int, num_logprobs: int | None
) -> bool:
    """Whether a model is small enough, and a draw under these settings compiles as one kernel.

    XLA complains loudly where it does not: top-k calls a library, penalties and n-grams scatter,
    and reductions of a large vocabulary go to a library too (and are worth it).
    """
    size = sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(params))
    names = ("top_k", "repetition_penalty", "presence_penalty", "frequency_penalty")
    loose = all(getattr(sampling, name) is None for name in (*names, "no_repeat_ngram"))
    return (
        size <= _LARGEST_MODEL and loose and vocab_size <= _LARGEST_VOCABULARY and not num_logprobs
    )


def fused_where_it_pays(
    call: Callable[[bool], Any], place: Any, rows: int, fitting: bool, arguments: Any
) -> Any:
    """`call(fused)`: fused for a single row on a CPU, unless XLA refused it at this place before.

    Args:
        call: runs a jitted function; `fused` asks for `one_kernel` inside.
        place: what the program depends on; remembered where XLA refuses.
        rows: the batch size.
        fitting: what `fits` says; a step function of the user's own may still not fit.
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
