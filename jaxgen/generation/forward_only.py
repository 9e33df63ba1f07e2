"""`forward_only`: what reverse mode cannot pass, with an error that names the way out."""

from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxgen.errors import UserError
from jaxgen.types import Array

_forward_only = Primitive("forward_only")


def forward_only(x: Array) -> Array:
    """`x`; UserError where a gradient is to go back through it.

    JAX cannot reverse a `while_loop`, and says so in its own terms, in the midst of its own files.
    Behind a loop this identity is met first on the way back. It costs nothing in the program, and
    forward mode passes.
    """
    return _forward_only.bind(x)


def _refuse(cotangent: Any, x: Any) -> Any:
    raise UserError(
        "`early_exit` must be False for reverse mode (`jax.grad`, `jax.vjp`) where rows may stop "
        "early, got True; `generate(..., early_exit=False)` runs all steps by a `scan`"
    )


_forward_only.def_impl(lambda x: x)
_forward_only.def_abstract_eval(lambda x: x)
ad.deflinear2(_forward_only, _refuse)
batching.defvectorized(_forward_only)
mlir.register_lowering(_forward_only, lambda ctx, x: [x])
