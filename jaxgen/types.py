"""Array annotations, and what a loss gives beside the number to differentiate.

Annotations are jaxtyping's where it is installed and inert stand-ins where only JAX is: the
numerical packages (``ops``, ``nn``, ``models``, ``generation``) and the benchmarks run with nothing
but jax, flax, optax and numpy.
"""

from typing import Any, NamedTuple

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

__all__ = [
    *("Array", "Bool", "Float", "Int", "Key", "PyTree", "Shaped", "UInt32"),
    *("LossAux", "Sum"),
]


class Sum(NamedTuple):
    """A sum and what to divide it by for a mean."""

    total: Any
    """An array of any shape: a scalar, a confusion matrix."""
    weight: Any
    """A scalar; 0 where there was nothing to add up."""


class LossAux(NamedTuple):
    """What a loss gives beside the mean to differentiate."""

    carry: PyTree
    """The model's memory after the batch."""
    sums: dict[str, Sum]
    """What figures are made of, summed over the batch: {"nll": Sum(nats, tokens)}."""
    weight: Float[Array, ""]
    """Tokens or examples behind the loss: averages over batches and devices are weighted by it."""
