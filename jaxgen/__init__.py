"""Recurrent sequence generation in JAX at the speed the hardware allows."""

TYPE_CHECKING = False  # true to type checkers; the command answers Ctrl-C sooner without `typing`
if TYPE_CHECKING:
    from typing import Any

    from jaxgen.config import Experiment as Experiment
    from jaxgen.errors import UserError as UserError
    from jaxgen.experiment import evaluate as evaluate
    from jaxgen.experiment import export as export
    from jaxgen.experiment import load as load
    from jaxgen.experiment import train as train
    from jaxgen.generation.generate import generate as generate
    from jaxgen.generation.sampling import SamplingParams as SamplingParams
    from jaxgen.generation.text import TextModel as TextModel

__version__ = "0.1.0"

# Public name -> file that defines it; loaded on first use, so that `import jaxgen` stays light.
_HOMES = {
    "Experiment": "config",
    "SamplingParams": "generation.sampling",
    "TextModel": "generation.text",
    "UserError": "errors",
    "evaluate": "experiment",
    "export": "experiment",
    "generate": "generation.generate",
    "load": "experiment",
    "train": "experiment",
}

__all__ = [
    "Experiment",
    "SamplingParams",
    "TextModel",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "generate",
    "load",
    "train",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
    return getattr(import_module(f"jaxgen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
