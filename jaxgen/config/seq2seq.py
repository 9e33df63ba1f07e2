"""Settings of an LSTM encoder-decoder."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Config, Positive, Rate, Size
from jaxgen.config.experiment import Experiment
from jaxgen.config.output import OutputConfig
from jaxgen.config.pairs import PairData
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig


class Seq2SeqTokenizer(TokenizerConfig):
    """How the texts of both sides become token ids."""

    kind: Literal["byte", "char", "word", "bpe"] = "char"
    """Unit of text: UTF-8 bytes, characters, white-space words or BPE pieces."""
    shared: bool = False
    """One vocabulary for both sides, fitted to the texts of both."""


class Seq2SeqConfig(OutputConfig):
    """An LSTM encoder-decoder with attention."""

    hidden_size: Size = 128
    """Units of each LSTM layer, and direction of the encoder."""
    num_layers: Positive = 1
    """Layers of the encoder, and of the decoder."""
    embedding_size: Annotated[int, Field(ge=0, le=2**28)] = 64
    """Size of the token embeddings; 0 feeds one-hot tokens to the first layers."""
    bidirectional: bool = True
    """The encoder reads both ways."""
    encoder_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """Units of the encoder's layers, and direction; 0: `hidden_size`."""
    encoder_last_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """Units of its last layer; 0: as the others. A tied language model's is its embedding size."""
    decoder_last_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """The same of the decoder; tied and without attention it is `embedding_size` always."""
    attention: Literal["none", "additive", "dot", "general", "scaled"] = "general"
    """How the decoder finds its place in the source."""
    input_feeding: bool = False
    """The decoder also reads what it attended to last; its layers then run step by step."""
    reverse_source: bool = False
    """The encoder reads each source from its end."""
    tied: bool = False
    """Share the target embedding with the output layer."""
    shared_embedding: bool = False
    """Both sides have one embedding; needs `tokenizer.shared`."""
    residual: bool = False
    """Add each layer's input to its output from the second layer on."""
    dropout: Rate = 0.2
    """Dropout on what the output layer reads."""
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
    pretrained: Path | None = None
    """A language model's run or export whose tokenizer, embedding and layers to begin with."""
    pretrained_side: Literal["encoder", "decoder"] = "decoder"
    """The side that begins with them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and the cell state stay float32. On a CPU bfloat16 trains slower."""
    backend: Literal["auto", "scan", "cudnn", "pallas"] = "auto"
    """What runs the recurrence in training; auto chooses by device and shapes."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for name in ("tied", "shared_embedding"):
            if getattr(self, name) and not self.embedding_size:
                raise ValueError(
                    f"`model.{name}` shares an embedding, so it needs `model.embedding_size` of at "
                    "least 1"
                )
        if self.input_feeding and self.attention == "none":
            raise ValueError(
                "`model.input_feeding` feeds what was attended to, so it needs a `model.attention` "
                "other than none"
            )
        return self

    @property
    def output_size(self) -> int:
        """Numbers that the output layer reads."""
        if self.tied:
            return self.embedding_size
        attends = self.attention != "none"
        return self.hidden_size if attends else self.decoder_last_size or self.hidden_size


class Seq2SeqTraining(TrainingConfig):
    """The training loop; a row of a batch is one pair."""

    batch_tokens: Positive = 4096
    """Source and target tokens of a batch, padding included, at most."""
    batch_size: Positive = 2
    """The rows of each batch are a multiple of it; devices must divide it."""
    steps_per_dispatch: Positive = 4
    """Optimizer steps in one compiled call, all of one shape."""
    label_smoothing: Rate = 0.0
    """Share of each target that is spread over all tokens."""
    objective: Literal["nll", "token_accuracy"] = "nll"
    """The figure on validation data that decides which checkpoint is best."""


class TranslationConfig(Config):
    """How a trained model translates, where nothing else is asked for."""

    beam_size: Positive = 4
    """Beams of the search; 1 takes the likeliest token at each step."""
    length_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Power of the length that a hypothesis's log-probability is divided by."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Validation sources whose outputs are shown after each evaluation."""

    changeable_on_resume = frozenset({"beam_size", "length_penalty", "samples"})


class Seq2SeqExperiment(Experiment):
    """Training of an encoder-decoder."""

    task: Literal["seq2seq"] = "seq2seq"
    data: PairData = PairData()
    tokenizer: Seq2SeqTokenizer = Seq2SeqTokenizer()
    model: Seq2SeqConfig = Seq2SeqConfig()
    training: Seq2SeqTraining = Seq2SeqTraining()
    translation: TranslationConfig = TranslationConfig()

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if self.model.shared_embedding and not self.tokenizer.shared:
            raise ValueError(
                "`model.shared_embedding` needs one vocabulary for both sides: turn "
                "`tokenizer.shared` on, or it off"
            )
        if self.tokenizer.shared and self.model.pretrained is not None:
            raise ValueError(
                "`model.pretrained` brings the tokenizer of one side, so `tokenizer.shared` must "
                "be off"
            )
        return self
