"""Recurrent sequence generation in JAX at the speed the hardware allows."""

TYPE_CHECKING = False  # true to type checkers; the command answers Ctrl-C sooner without `typing`
if TYPE_CHECKING:
    from typing import Any

    from jaxgen import nn as nn
    from jaxgen.config import Experiment as Experiment
    from jaxgen.config import LanguageModelExperiment as LanguageModelExperiment
    from jaxgen.errors import UserError as UserError
    from jaxgen.experiment import evaluate as evaluate
    from jaxgen.experiment import export as export
    from jaxgen.experiment import load as load
    from jaxgen.experiment import train as train
    from jaxgen.generation.beam import beam_search as beam_search
    from jaxgen.generation.generate import generate as generate
    from jaxgen.generation.sampling import SamplingParams as SamplingParams
    from jaxgen.generation.score import score as score
    from jaxgen.generation.text import TextModel as TextModel
    from jaxgen.prediction.classifier import Classifier as Classifier
    from jaxgen.prediction.predictions import Prediction as Prediction
    from jaxgen.training.step import init_state as init_state
    from jaxgen.training.step import make_train_step as make_train_step
    from jaxgen.types import LossAux as LossAux
    from jaxgen.types import Sum as Sum

__version__ = "0.1.0"

# Public name -> module that defines it, loaded on first use, so that `import jaxgen` stays light.
_DEFINED_IN = {
    "Classifier": "prediction.classifier",
    "Experiment": "config",
    "LanguageModelExperiment": "config",
    "LossAux": "types",
    "Prediction": "prediction.predictions",
    "SamplingParams": "generation.sampling",
    "Sum": "types",
    "TextModel": "generation.text",
    "UserError": "errors",
    "beam_search": "generation.beam",
    "evaluate": "experiment",
    "export": "experiment",
    "generate": "generation.generate",
    "init_state": "training.step",
    "load": "experiment",
    "make_train_step": "training.step",
    "score": "generation.score",
    "train": "experiment",
}

__all__ = [
    "Classifier",
    "Experiment",
    "LanguageModelExperiment",
    "LossAux",
    "Prediction",
    "SamplingParams",
    "Sum",
    "TextModel",
    "UserError",
    "__version__",
    "beam_search",
    "evaluate",
    "export",
    "generate",
    "init_state",
    "load",
    "make_train_step",
    "nn",
    "score",
    "train",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name == "nn":
        return import_module("jaxgen.nn")
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
    return getattr(import_module(f"jaxgen.{_DEFINED_IN[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
