"""Array annotations: jaxtyping where it is installed, inert stand-ins where only JAX is.

The numerical packages (``ops``, ``nn``, ``models``, ``generation``) and the benchmarks run with
nothing but jax, flax, optax and numpy; annotations must not be what stops them.
"""

from typing import Any

from jax import Array

try:
    from jaxtyping import Bool, Float, Int, Key, PyTree, Shaped, UInt32
except ImportError:  # pragma: no cover - exercised by the bare-install test

    class _Inert:
        """Accepts any subscript and means nothing."""

        def __class_getitem__(cls, item: object) -> Any:
            return Any

    Bool = Float = Int = Key = Shaped = UInt32 = _Inert  # type: ignore[assignment]
    PyTree = Any

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PyTree", "Shaped", "UInt32"]
