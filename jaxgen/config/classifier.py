"""Settings of a classifier."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from jaxgen.config.base import Config, NonNegative, Positive, Rate, Size
from jaxgen.config.experiment import Experiment
from jaxgen.config.labelled import LabelledData
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig

Pooling = Literal["last", "mean", "max", "attention"]


class ClassifierTokenizer(TokenizerConfig):
    """How text becomes token ids."""

    kind: Literal["byte", "char", "word", "bpe"] = "word"
    """Unit of text: UTF-8 bytes, characters, white-space words or BPE pieces."""
    vocab_size: Positive | None = 20_000
    """Largest vocabulary, special tokens included (word and char cut to it); "none": all."""


class ClassifierConfig(Config):
    """An LSTM classifier: tokens to hidden states, pooled over time, to one score a label."""

    hidden_size: Size = 64
    """Units of each LSTM layer, and direction."""
    num_layers: Positive = 1
    """LSTM layers."""
    last_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """Units of the last layer; 0: `hidden_size`. A tied language model's is its embedding size."""
    bidirectional: bool = True
    """Read the text both ways."""
    embedding_size: Annotated[int, Field(ge=0, le=2**28)] = 64
    """Size of the token embedding; 0 feeds one-hot tokens to the first layer."""
    pooling: tuple[Pooling, ...] = ("mean", "max")
    """What is made of the hidden states: the last, their mean, maximum or attention, joined."""
    pool_embedding: bool = False
    """Also pool the embedded tokens, their mean and their maximum, past the LSTM."""
    ngrams: Annotated[int, Field(ge=0, le=8)] = 0
    """Also score n-grams of up to so many tokens, past the LSTM, by counted log-odds; 0: none."""
    ngram_buckets: Size = 2**18
    """Rows of the table to which n-grams are hashed."""
    dense_size: NonNegative = 0
    """Units of a ReLU layer before the output; 0: none."""
    masking: bool = True
    """Leave padding out; without it padding is read as the text is, to `data.max_length`."""
    cell: Literal["lstm", "layernorm_lstm"] = "lstm"
    """Recurrent cell."""
    residual: bool = False
    """Add each layer's input to its output from the second layer on."""
    dropout: Rate = 0.5
    """Dropout on what is pooled, and before the output."""
    layer_dropout: Rate | None = None
    """Dropout between layers (default: as `dropout`)."""
    input_dropout: Rate = 0.0
    """Dropout on the embedded tokens."""
    embedding_dropout: Rate = 0.0
    """Share of the vocabulary whose embedding is dropped for a whole batch."""
    weight_drop: Rate = 0.0
    """DropConnect on the recurrent matrices."""
    variational: bool = True
    """One dropout mask a text rather than one a step."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""
    initialization: Literal["gates", "keras"] = "gates"
    """Kernels drawn for each gate on its own; or as in Keras, smaller, and so the embedding."""
    pretrained: Path | None = None
    """A language model's run or export whose tokenizer, embedding and layers to begin with."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and the cell state stay float32."""
    backend: Literal["auto", "scan", "cudnn", "pallas"] = "auto"
    """What runs the recurrence in training; auto chooses by device and shapes."""

    @field_validator("pooling")
    @classmethod
    def _some_pooling(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError(
                f"`model.pooling` must name at least one of last, mean, max and attention, and "
                f"each once, got {list(value)}"
            )
        return value


class ClassifierTraining(TrainingConfig):
    """The training loop; a row of a batch is one text."""

    epochs: Annotated[float, Field(gt=0)] = 5.0
    """Passes over the training data (a fraction is fine)."""
    steps_per_dispatch: Positive = 4
    """Optimizer steps in one compiled call, all of one padded length."""
    objective: Literal["accuracy", "f1_macro", "nll"] = "accuracy"
    """The figure on validation data that decides which checkpoint is best."""
    label_smoothing: Rate = 0.0
    """Share of each target that is spread over all labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the labels in the loss; balanced: so that each label weighs the same in all."""
    adversarial: Literal["none", "virtual", "plain"] = "none"
    """Train on perturbed embeddings too (Miyato, Dai & Goodfellow 2017)."""
    adversarial_norm: Annotated[float, Field(gt=0)] = 5.0
    """L2 norm of the perturbation of one text's embeddings."""
    adversarial_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the adversarial loss."""


class PredictionConfig(Config):
    """How scores become labels."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Least probability of the second of two labels, or of each of several at once."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the scores before they become probabilities; `evaluate` reports the best one."""

    changeable_on_resume = frozenset({"threshold", "temperature"})


class ClassifierExperiment(Experiment):
    """Training of a classifier."""

    task: Literal["classifier"] = "classifier"
    data: LabelledData = LabelledData()
    tokenizer: ClassifierTokenizer = ClassifierTokenizer()
    model: ClassifierConfig = ClassifierConfig()
    training: ClassifierTraining = ClassifierTraining()
    prediction: PredictionConfig = PredictionConfig()

    @model_validator(mode="after")
    def _perturbs_embeddings(self) -> Self:
        if self.training.adversarial != "none" and self.model.embedding_size == 0:
            raise ValueError(
                "`training.adversarial` perturbs embeddings, so it needs `model.embedding_size` of "
                "at least 1"
            )
        return self
