"""Settings of a language model that is conditioned on a label of each text."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Config, Positive, Rate
from jaxgen.config.experiment import Experiment
from jaxgen.config.labelled import LabelledSource
from jaxgen.config.language_model import RecurrentConfig
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig


class ConditionalData(LabelledSource):
    """Labelled texts to write like; with neither `dataset` nor `files`: embedded sentences."""

    max_length: Positive = 128
    """Tokens that are kept of a text, from its start."""

    @model_validator(mode="after")
    def _one_label_a_text(self) -> Self:
        if self.multi_label:
            raise ValueError(
                "`data.multi_label` must be off: the model follows one label a text; write each "
                "text once for each of its labels (generation mixes labels: --label a=0.5,b=0.5)"
            )
        return self


class ConditionalTokenizer(TokenizerConfig):
    """How text becomes token ids."""

    kind: Literal["byte", "char", "word", "bpe"] = "word"
    """Unit of text: UTF-8 bytes, characters, white-space words or BPE pieces."""
    vocab_size: Positive | None = 20_000
    """Largest vocabulary, special tokens included (word and char cut to it); "none": all."""


class ConditionalConfig(RecurrentConfig):
    """An LSTM language model that is told a label."""

    condition: Literal["film", "input", "carry"] = "film"
    """Where the label enters: scaling and shifting the last layer's output (FiLM), at every input,
    or in the first carry."""


class ConditionalTraining(TrainingConfig):
    """The training loop; a row of a batch is one text."""

    steps_per_dispatch: Positive = 4
    """Optimizer steps in one compiled call, all of one padded length."""
    label_dropout: Rate = 0.1
    """Share of the texts whose label is replaced by the null label, anew in each epoch."""


class ConditionalSamples(Config):
    """The samples shown after each evaluation: one text for each label and strength."""

    guidance: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 3.0)
    """Strengths; none shows no samples."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 is greedy."""
    max_new_tokens: Positive = 40
    """Most tokens of each sample."""

    changeable_on_resume = frozenset({"guidance", "temperature", "max_new_tokens"})


class ConditionalExperiment(Experiment):
    """Training of a language model that is conditioned on labels."""

    task: Literal["conditional_language_model"] = "conditional_language_model"
    data: ConditionalData = ConditionalData()
    tokenizer: ConditionalTokenizer = ConditionalTokenizer()
    model: ConditionalConfig = ConditionalConfig()
    training: ConditionalTraining = ConditionalTraining()
    samples: ConditionalSamples = ConditionalSamples()
