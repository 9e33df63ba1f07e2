"""Recurrent sequence generation in JAX at the speed the hardware allows."""

TYPE_CHECKING = False  # true to type checkers; the command answers Ctrl-C sooner without `typing`
if TYPE_CHECKING:
    from typing import Any

    from jaxgen import nn as nn
    from jaxgen.config import Experiment as Experiment
    from jaxgen.config import LanguageModelExperiment as LanguageModelExperiment
    from jaxgen.config.distributed import Distributed as Distributed
    from jaxgen.errors import UserError as UserError
    from jaxgen.experiment import evaluate as evaluate
    from jaxgen.experiment import export as export
    from jaxgen.experiment import load as load
    from jaxgen.experiment import train as train
    from jaxgen.generation.automata import make_automaton as make_automaton
    from jaxgen.generation.beam import beam_search as beam_search
    from jaxgen.generation.cache import cached as cached
    from jaxgen.generation.cache import cached_carry as cached_carry
    from jaxgen.generation.cache import cached_params as cached_params
    from jaxgen.generation.constrained import constrained as constrained
    from jaxgen.generation.constrained import constrained_carry as constrained_carry
    from jaxgen.generation.ensemble import ensemble as ensemble
    from jaxgen.generation.ensemble import ensemble_carry as ensemble_carry
    from jaxgen.generation.ensemble import ensemble_of as ensemble_of
    from jaxgen.generation.ensemble import ensemble_of_carry as ensemble_of_carry
    from jaxgen.generation.generate import generate as generate
    from jaxgen.generation.guidance import guided as guided
    from jaxgen.generation.guidance import guided_carry as guided_carry
    from jaxgen.generation.guidance import mixture as mixture
    from jaxgen.generation.guidance import mixture_carry as mixture_carry
    from jaxgen.generation.sampling import SamplingParams as SamplingParams
    from jaxgen.generation.score import score as score
    from jaxgen.generation.text import TextModel as TextModel
    from jaxgen.generation.translations import Translation as Translation
    from jaxgen.generation.translator import Translator as Translator
    from jaxgen.generation.utf8 import utf8_automaton as utf8_automaton
    from jaxgen.prediction.classifier import Classifier as Classifier
    from jaxgen.prediction.predictions import Prediction as Prediction
    from jaxgen.saved import load_ensemble as load_ensemble
    from jaxgen.tasks.cached import with_cache as with_cache
    from jaxgen.tasks.matching import matching as matching
    from jaxgen.training.step import init_state as init_state
    from jaxgen.training.step import make_train_step as make_train_step
    from jaxgen.tuning.tune import tune as tune
    from jaxgen.types import LossAux as LossAux
    from jaxgen.types import Sum as Sum

__version__ = "0.1.0"

# Public name -> module that defines it, loaded on first use, so that `import jaxgen` stays light.
_DEFINED_IN = {
    "Classifier": "prediction.classifier",
    "Distributed": "config.distributed",
    "Experiment": "config",
    "LanguageModelExperiment": "config",
    "LossAux": "types",
    "Prediction": "prediction.predictions",
    "SamplingParams": "generation.sampling",
    "Sum": "types",
    "TextModel": "generation.text",
    "Translation": "generation.translations",
    "Translator": "generation.translator",
    "UserError": "errors",
    "beam_search": "generation.beam",
    "cached": "generation.cache",
    "cached_carry": "generation.cache",
    "cached_params": "generation.cache",
    "constrained": "generation.constrained",
    "constrained_carry": "generation.constrained",
    "ensemble": "generation.ensemble",
    "ensemble_carry": "generation.ensemble",
    "ensemble_of": "generation.ensemble",
    "ensemble_of_carry": "generation.ensemble",
    "evaluate": "experiment",
    "export": "experiment",
    "generate": "generation.generate",
    "guided": "generation.guidance",
    "guided_carry": "generation.guidance",
    "init_state": "training.step",
    "load": "experiment",
    "load_ensemble": "saved",
    "make_automaton": "generation.automata",
    "make_train_step": "training.step",
    "matching": "tasks.matching",
    "mixture": "generation.guidance",
    "mixture_carry": "generation.guidance",
    "score": "generation.score",
    "train": "experiment",
    "tune": "tuning.tune",
    "utf8_automaton": "generation.utf8",
    "with_cache": "tasks.cached",
}

__all__ = [
    "Classifier",
    "Distributed",
    "Experiment",
    "LanguageModelExperiment",
    "LossAux",
    "Prediction",
    "SamplingParams",
    "Sum",
    "TextModel",
    "Translation",
    "Translator",
    "UserError",
    "__version__",
    "beam_search",
    "cached",
    "cached_carry",
    "cached_params",
    "constrained",
    "constrained_carry",
    "ensemble",
    "ensemble_carry",
    "ensemble_of",
    "ensemble_of_carry",
    "evaluate",
    "export",
    "generate",
    "guided",
    "guided_carry",
    "init_state",
    "load",
    "load_ensemble",
    "make_automaton",
    "make_train_step",
    "matching",
    "mixture",
    "mixture_carry",
    "nn",
    "score",
    "train",
    "tune",
    "utf8_automaton",
    "with_cache",
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
