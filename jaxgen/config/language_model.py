"""Settings of a language model."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Config, Positive, Rate, Size
from jaxgen.config.data import CorpusConfig
from jaxgen.config.experiment import Experiment
from jaxgen.config.output import OutputConfig
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig


class LanguageModelData(CorpusConfig):
    """Where the text comes from. With neither `dataset` nor `files`: the embedded corpus."""

    reset_documents: bool = False
    """Start each document (dataset row) from a zero carry."""


class RecurrentConfig(OutputConfig):
    """The layers of an LSTM that predicts the next token."""

    hidden_size: Size = 128
    """Units of each LSTM layer."""
    num_layers: Positive = 1
    """LSTM layers."""
    embedding_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """Size of the token embedding; 0 feeds one-hot tokens to the first layer."""
    cell: Literal["lstm", "layernorm_lstm"] = "lstm"
    """Recurrent cell."""
    tied: bool = False
    """Share the embedding with the output layer (projects where the sizes differ)."""
    residual: bool = False
    """Add each layer's input to its output from the second layer on."""
    dropout: Rate = 0.0
    """Dropout on the output of the last layer."""
    layer_dropout: Rate | None = None
    """Dropout between layers (default: as `dropout`)."""
    input_dropout: Rate = 0.0
    """Dropout on the embedded tokens."""
    embedding_dropout: Rate = 0.0
    """Share of the vocabulary whose embedding is dropped for a whole sequence."""
    weight_drop: Rate = 0.0
    """DropConnect on the recurrent matrices."""
    variational: bool = True
    """One dropout mask a sequence rather than one a step."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and the cell state stay float32. On a CPU bfloat16 trains slower."""
    backend: Literal["auto", "scan", "cudnn", "pallas"] = "auto"
    """What runs the recurrence in training; auto chooses by device and shapes."""

    @model_validator(mode="after")
    def _tied_needs_embedding(self) -> Self:
        if self.tied and self.embedding_size == 0:
            raise ValueError(
                "`model.tied` shares the embedding with the output layer, so it needs "
                "`model.embedding_size` of at least 1"
            )
        return self

    @property
    def output_size(self) -> int:
        """Numbers that the output layer reads."""
        return self.embedding_size if self.tied else self.hidden_size


class LanguageModelConfig(RecurrentConfig):
    """An LSTM language model."""

    @model_validator(mode="before")
    @classmethod
    def _without_labels(cls, values: Any) -> Any:
        """Earlier files say `num_labels = 0`."""
        if not isinstance(values, dict):
            return values
        if values.get("num_labels") == 0:
            values = {name: value for name, value in values.items() if name != "num_labels"}
        # What has been through here counts as no JSON any more, whose lists become tuples.
        return {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}


class LanguageModelTraining(TrainingConfig):
    """The training loop; a row of a batch is one of the streams of text read side by side."""

    sequence_length: Positive = 64
    """Tokens of truncated back-propagation through time."""
    activation_penalty: Annotated[float, Field(ge=0)] = 0.0
    """AWD-LSTM's alpha: weight of the mean squared output (AR)."""
    temporal_penalty: Annotated[float, Field(ge=0)] = 0.0
    """AWD-LSTM's beta: weight of the mean squared change of the output (TAR)."""
    loss: Literal["full", "sampled"] = "full"
    """Softmax over all tokens, or in training over the target and some that are drawn, frequent
    ones more often (evaluated with the full one)."""
    sampled_tokens: Positive = 1024
    """Tokens that the sampled loss draws for each batch."""


class SamplesConfig(Config):
    """The samples shown after each evaluation."""

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = (0.2, 0.5, 1.0, 1.2)
    """One sample each; 0 is greedy; none shows no samples."""
    prompt: str | None = None
    """Text to continue (default: the start of the validation text)."""
    max_new_tokens: Positive = 200
    """Length of each sample."""

    changeable_on_resume = frozenset({"temperatures", "prompt", "max_new_tokens"})


class LanguageModelExperiment(Experiment):
    """Training of a language model."""

    task: Literal["language_model"] = "language_model"
    data: LanguageModelData = LanguageModelData()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: LanguageModelConfig = LanguageModelConfig()
    training: LanguageModelTraining = LanguageModelTraining()
    samples: SamplesConfig = SamplesConfig()
