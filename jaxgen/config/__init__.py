"""Every setting of every task, as pydantic models.

The numerical packages never import this one (nor pydantic): a Flax module's own attributes are its
configuration there. `jaxgen.tasks` turns these models into data, modules and steps.
"""

from jaxgen.config.base import Config
from jaxgen.config.classifier import (
    ClassifierConfig,
    ClassifierExperiment,
    ClassifierTraining,
    PredictionConfig,
)
from jaxgen.config.conditional import (
    ConditionalConfig,
    ConditionalData,
    ConditionalExperiment,
    ConditionalTraining,
)
from jaxgen.config.data import CorpusConfig, DataConfig, SourceConfig
from jaxgen.config.experiment import Experiment, changes
from jaxgen.config.labelled import LabelledData, LabelledSource
from jaxgen.config.language_model import (
    LanguageModelConfig,
    LanguageModelData,
    LanguageModelExperiment,
    LanguageModelTraining,
    SamplesConfig,
)
from jaxgen.config.optimizer import OptimizerConfig
from jaxgen.config.pairs import PairData
from jaxgen.config.seq2seq import (
    Seq2SeqConfig,
    Seq2SeqExperiment,
    Seq2SeqTokenizer,
    Seq2SeqTraining,
    TranslationConfig,
)
from jaxgen.config.text_gan import (
    AdversarialConfig,
    TextGanConfig,
    TextGanData,
    TextGanExperiment,
    TextGanTraining,
)
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig

EXPERIMENTS: dict[str, type[Experiment]] = {
    "language_model": LanguageModelExperiment,
    "classifier": ClassifierExperiment,
    "conditional_language_model": ConditionalExperiment,
    "seq2seq": Seq2SeqExperiment,
    "text_gan": TextGanExperiment,
}
"""The settings of each task by the name that `task = "..."` gives in a TOML file."""

__all__ = [
    "EXPERIMENTS",
    "AdversarialConfig",
    "ClassifierConfig",
    "ClassifierExperiment",
    "ClassifierTraining",
    "ConditionalConfig",
    "ConditionalData",
    "ConditionalExperiment",
    "ConditionalTraining",
    "Config",
    "CorpusConfig",
    "DataConfig",
    "Experiment",
    "LabelledData",
    "LabelledSource",
    "LanguageModelConfig",
    "LanguageModelData",
    "LanguageModelExperiment",
    "LanguageModelTraining",
    "OptimizerConfig",
    "PairData",
    "PredictionConfig",
    "SamplesConfig",
    "Seq2SeqConfig",
    "Seq2SeqExperiment",
    "Seq2SeqTokenizer",
    "Seq2SeqTraining",
    "SourceConfig",
    "TextGanConfig",
    "TextGanData",
    "TextGanExperiment",
    "TextGanTraining",
    "TokenizerConfig",
    "TrainingConfig",
    "TranslationConfig",
    "changes",
]
