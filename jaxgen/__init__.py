"""Recurrent sequence generation in JAX at the speed the hardware allows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgen.errors import UserError as UserError
    from jaxgen.experiment import load as load
    from jaxgen.experiment import train as train

__version__ = "0.1.0"

# Public name -> file that defines it; loaded on first use, so that `import jaxgen` stays light.
_HOMES = {
    "UserError": "errors",
    "load": "experiment",
    "train": "experiment",
}

__all__ = ["UserError", "__version__", "load", "train"]  # noqa: F822 - lazy names


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
    return getattr(import_module(f"jaxgen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
