"""Every setting of an experiment: frozen, typed, documented, checked when it is read.

The numerical rooms never import this file (nor pydantic): a Flax module's own attributes are its
configuration there. ``jaxgen/experiment.py`` turns these models into tokenizers, modules and steps.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=0.5)]


class Config(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(Config):
    """Where the text comes from. With neither `dataset` nor `files`: the embedded corpus."""

    dataset: str | None = None
    """Hugging Face hub id, for example karpathy/tiny_shakespeare."""
    subset: str | None = None
    """The dataset's configuration name on the hub, for example wikitext-2-raw-v1."""
    files: tuple[Path, ...] = ()
    """Local training files: txt, csv, tsv, json, jsonl or parquet, also gzipped."""
    validation_files: tuple[Path, ...] = ()
    """Local validation files; without them the end of the training text is held out."""
    test_files: tuple[Path, ...] = ()
    """Local test files; without them the end of the training text is held out."""
    column: str = "text"
    """Column with the text (or integer lists); a number where a csv or tsv has no header line."""
    split: str = "train"
    """Split of the dataset to train on."""
    validation_split: str | None = None
    """Split of the dataset to validate on (default: `validation` where there is one)."""
    test_split: str | None = None
    """Split of the dataset to test on (default: `test` where there is one)."""
    validation_fraction: Fraction = 0.05
    """Share of the training text held out for validation where no split or file is given."""
    test_fraction: Fraction = 0.05
    """Share of the training text held out for testing where no split or file is given."""
    streaming: bool = False
    """Read the dataset as a stream instead of downloading it whole."""
    errors: Literal["strict", "replace", "ignore"] = "strict"
    """What to do with bytes that are not UTF-8."""
    lowercase: bool = False
    """Lower-case the text."""
    reset_documents: bool = False
    """Start each document (dataset row) from a zero carry."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.dataset and self.files:
            raise ValueError("give either `data.dataset` or `data.files`, not both")
        return self


class TokenizerConfig(Config):
    """How text becomes token ids."""

    kind: Literal["byte", "char", "word", "bpe", "integer"] = "char"
    """Unit of text: UTF-8 bytes, characters, white-space words, BPE pieces, or ready integers."""
    vocab_size: Positive | None = None
    """Largest vocabulary, special tokens included (bpe needs it; word and char cut to it)."""
    min_frequency: Positive = 1
    """Words and characters seen less often become <unk>."""
    nfc: bool = False
    """Normalise the text to Unicode NFC first."""


class ModelConfig(Config):
    """An LSTM language model."""

    hidden_size: Annotated[int, Field(ge=1, le=2**28)] = 128
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
    num_labels: NonNegative = 0
    """Number of condition labels (0: unconditioned)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and the cell state stay float32."""
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


class OptimizerConfig(Config):
    """Optimizer, learning-rate schedule and clipping (optax)."""

    name: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Update rule."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rate after the warm-up, down to `final_fraction` of its peak."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up from zero."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Last learning rate, as a share of the peak."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0
    """Largest global norm of the gradient; "none" leaves it alone."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay (adamw), or L2 on the gradient (sgd, rmsprop, adam)."""
    momentum: Rate = 0.0
    """Momentum of sgd and rmsprop."""
    b1: Rate = 0.9
    """Decay of Adam's first moment."""
    b2: Rate = 0.999
    """Decay of Adam's second moment, and of RMSprop's."""

    @field_validator("clip_norm", mode="before")
    @classmethod
    def _none_in_toml(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value


class TrainingConfig(Config):
    """The training loop."""

    batch_size: Positive = 64
    """Streams of text read side by side."""
    sequence_length: Positive = 64
    """Tokens of truncated back-propagation through time."""
    epochs: Annotated[float, Field(gt=0)] = 10.0
    """Passes over the training text (a fraction is fine)."""
    max_steps: Positive | None = None
    """Stop after so many optimizer steps."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after so many minutes of training."""
    evaluate_every: Positive | None = None
    """Optimizer steps between evaluations (default: one epoch)."""
    patience: Positive | None = None
    """Stop after so many evaluations without a better validation loss."""
    accumulate_steps: Positive = 1
    """Windows whose gradients are averaged into one optimizer step."""
    steps_per_dispatch: Positive = 50
    """Optimizer steps in one compiled call."""
    averaging: Literal["none", "ema", "nt_asgd"] = "none"
    """Average of the parameters that is evaluated and saved as the model."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay of the exponential moving average."""
    nt_asgd_window: Positive = 5
    """Evaluations without progress that start NT-ASGD's averaging."""
    activation_penalty: Annotated[float, Field(ge=0)] = 0.0
    """AWD-LSTM's alpha: weight of the mean squared output (AR)."""
    temporal_penalty: Annotated[float, Field(ge=0)] = 0.0
    """AWD-LSTM's beta: weight of the mean squared change of the output (TAR)."""
    devices: Literal["auto"] | Positive = "auto"
    """Devices of data parallelism; auto measures on a CPU with several cores."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] = 0
    """Seed of parameters, dropout and samples."""


class SamplesConfig(Config):
    """The samples shown after each evaluation."""

    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = (0.2, 0.5, 1.0, 1.2)
    """One sample each; 0 is greedy; none shows no samples."""
    prompt: str | None = None
    """Text to continue (default: the start of the validation text)."""
    max_new_tokens: Positive = 200
    """Length of each sample."""


class Experiment(Config):
    """A whole experiment: what a TOML file holds and a run directory keeps."""

    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    samples: SamplesConfig = SamplesConfig()
