"""The LSTM encoder-decoder: its module, its loss, and what a language model lends it."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.models.input_feeding import FedLSTM
from jaxgen.models.token_output import TokenOutput
from jaxgen.nn.attention import Attention
from jaxgen.nn.bridge import Bridge
from jaxgen.nn.dropout import drop
from jaxgen.nn.inputs import TokenInputs, real_steps
from jaxgen.nn.lstm import LSTM
from jaxgen.ops.clusters import Clusters
from jaxgen.ops.lstm import LSTMCarry
from jaxgen.ops.output_loss import OutputLoss
from jaxgen.types import Array, Bool, Float, Int, LossAux, PyTree, Shaped, Sum


class Seq2SeqCarry(NamedTuple):
    """The state of the decoder between two steps; all that it knows of the source."""

    layers: tuple[LSTMCarry, ...]
    memory: Any
    """`jaxgen.nn.attention.Memory`, which rides along unchanged; None without attention."""
    attended: Any
    """Float[B, A], the last attentional vector; None without input feeding."""


class Seq2Seq(TokenOutput):
    """Source tokens and the target tokens so far in, logits of the next target token out.

    Parameters: `encoder` and `decoder`, as the `lstm` of a `LanguageModel`; `source_embedding`
    [V_source, E] and `embedding` [V, E] (one, `embedding`, where shared; none with one-hot
    inputs); `bridge` and `attention` where there are such; and those of `TokenOutput`. A is the
    size of the attentional vector, E where tied and else H; without attention that of the decoder's
    last layer.
    """

    source_vocab_size: int
    target_vocab_size: int
    hidden_size: int
    num_layers: int = 1
    """Layers of the encoder, and of the decoder."""
    embedding_size: int = 0
    """Of both sides; 0 feeds one-hot tokens."""
    bidirectional: bool = True
    """The encoder reads both ways."""
    encoder_size: int = 0
    """Units of each of the encoder's layers and directions; 0: `hidden_size`."""
    encoder_last_size: int = 0
    """Units of its last layer; 0: as the others. A tied language model's is `embedding_size`."""
    decoder_last_size: int = 0
    """The same of the decoder; tied and without attention it is `embedding_size` always."""
    attention: str = "general"
    """How the decoder finds its place in the source: "none", or see `jaxgen.nn.attention`."""
    input_feeding: bool = False
    """The decoder's first layer also reads the attentional vector of the step before: its layers
    then run step by step."""
    reverse_source: bool = False
    """The encoder reads each source from its end."""
    tied: bool = False
    """The target embedding is the output kernel too."""
    shared_embedding: bool = False
    """Both sides have one vocabulary and one embedding."""
    residual: bool = False
    forget_bias: float = 1.0
    dropout: float = 0.0
    """Dropout on what the output layer reads."""
    layer_dropout: float | None = None
    """Dropout between layers; None: as `dropout`."""
    input_dropout: float = 0.0
    embedding_dropout: float = 0.0
    weight_drop: float = 0.0
    variational: bool = True
    clusters: Clusters | None = None
    """Those of an adaptive softmax over the targets' vocabulary; None: a full one."""
    tail_divisor: float = 4.0
    """See `jaxgen.nn.adaptive_softmax`."""
    dtype: Any = jnp.float32
    backend: str = "auto"
    """What runs the recurrence, see `jaxgen.ops.backends`."""

    @property
    def encoder_sizes(self) -> tuple[int, ...]:
        """Units of each of the encoder's layers and directions."""
        size = self.encoder_size or self.hidden_size
        return (size,) * (self.num_layers - 1) + (self.encoder_last_size or size,)

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """Units of each of the decoder's layers."""
        attends = self.attention != "none"
        last = self.embedding_size if self.tied and not attends else self.hidden_size
        return (self.hidden_size,) * (self.num_layers - 1) + (self.decoder_last_size or last,)

    @property
    def output_size(self) -> int:
        """Size of what the output layer reads."""
        if self.attention == "none":
            return self.decoder_sizes[-1]
        return self.embedding_size if self.tied else self.hidden_size

    @property
    def between_dropout(self) -> float:
        """Dropout between layers."""
        return self.dropout if self.layer_dropout is None else self.layer_dropout

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        check_settings(self)
        options: dict[str, Any] = {
            "residual": self.residual,
            "dropout": self.between_dropout,
            "variational": self.variational,
            "weight_drop": self.weight_drop,
            "forget_bias": self.forget_bias,
            "time_major": True,
            "dtype": self.dtype,
            "backend": self.backend,
        }
        self.encoder = LSTM(self.encoder_sizes, bidirectional=self.bidirectional, **options)
        self.bridge = Bridge(self.decoder_sizes, self.bidirectional, self.dtype)
        self.decoder: Any
        if self.input_feeding:
            fed = {name: x for name, x in options.items() if name not in ("time_major", "backend")}
            self.decoder = FedLSTM(self.decoder_sizes, self.attention, **fed)
        else:
            self.decoder = LSTM(self.decoder_sizes, **options)
        size = self.output_size
        if self.attention != "none":
            outputs = self.encoder_sizes[-1] * (2 if self.bidirectional else 1)
            units = self.decoder_sizes[-1]
            self.attend = Attention(self.attention, outputs, units, size, name="attention")
        if self.embedding_size:
            init = partial(jax.random.uniform, minval=-0.1, maxval=0.1)
            shape = (self.target_vocab_size, self.embedding_size)
            self.embedding = self.param("embedding", init, shape)
            if not self.shared_embedding:
                shape = (self.source_vocab_size, self.embedding_size)
                self.source_embedding = self.param("source_embedding", init, shape)
        self.set_up_output(size, self.target_vocab_size)

    def __call__(
        self,
        sources: Int[Array, "B S"],
        source_lengths: Int[Array, "B"],
        targets: Int[Array, "B N"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T V"]:
        """Score every next token of given targets.

        Args:
            sources: in [0, source_vocab_size), each row filled up at its end.
            source_lengths: real tokens of each row; what stands beyond them changes nothing.
            targets: T + 1 tokens a row, of which the first T are read and the last T foretold.
            deterministic: no dropout; otherwise the `dropout` random stream is needed.

        Returns:
            float32 logits of the last T tokens.
        """
        carry = self.encode(sources, source_lengths, deterministic)
        return self.logits(self.decode(targets[:, :-1], carry, None, deterministic)[1])

    def encode(
        self, sources: Int[Array, "B S"], lengths: Int[Array, "B"], deterministic: bool = True
    ) -> Seq2SeqCarry:
        """Read sources; returns the decoder's state before its first token."""
        if self.reverse_source:
            sources = reversed_rows(sources, lengths)
        table = None
        if self.embedding_size:
            table = self.embedding if self.shared_embedding else self.source_embedding
        inputs = self._inputs(sources.T, table, self.source_vocab_size, deterministic)
        ends, outputs = self.encoder(
            inputs, lengths=lengths, keep_ends=True, deterministic=deterministic
        )
        memory = None if self.attention == "none" else self.attend.memory(outputs, lengths)
        attended = None
        if self.input_feeding:
            attended = jnp.zeros((len(sources), self.output_size), self.dtype)
        return Seq2SeqCarry(self.bridge(ends), memory, attended)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        carry: Seq2SeqCarry,
        mask: Bool[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Seq2SeqCarry, Float[Array, "B T A"]]:
        """Read target tokens; a masked step leaves the carry alone.

        Returns:
            The carry after the last real token, and what the output layer reads, before dropout.
        """
        carry, hidden, attended = self._decode(tokens, carry, mask, deterministic)
        return carry, hidden if attended is None else attended

    def attention_weights(
        self, tokens: Int[Array, "B T"], carry: Seq2SeqCarry
    ) -> Float[Array, "B T S"]:
        """The weight of each place of the source as the encoder read it, at each target token."""
        return self.attend.weights(self._decode(tokens, carry)[1], carry.memory)

    def _decode(
        self,
        tokens: Array,
        carry: Seq2SeqCarry,
        mask: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Seq2SeqCarry, Array, Array | None]:
        """The carry, outputs [B, T, H] of the last layer, and attentional vectors, if any."""
        table = self.embedding if self.embedding_size else None
        inputs = self._inputs(tokens.T, table, self.target_vocab_size, deterministic)
        options: dict[str, Any] = {
            "mask": None if mask is None else mask.T,
            "deterministic": deterministic,
        }
        attended = None
        if self.input_feeding:
            state, (hidden, attended) = self.decoder(
                inputs,
                (carry.layers, carry.attended),
                carry.memory,
                self.attend.parameters,
                **options,
            )
            carry = carry._replace(layers=state[0], attended=state[1])
            return carry, hidden.swapaxes(0, 1), attended.swapaxes(0, 1)
        layers, hidden = self.decoder(inputs, carry.layers, **options)
        hidden = hidden.swapaxes(0, 1)
        if self.attention != "none":
            attended = self.attend(hidden, carry.memory)
        return carry._replace(layers=layers), hidden, attended

    def _inputs(
        self, tokens: Array, table: Array | None, vocab_size: int, deterministic: bool
    ) -> TokenInputs | Array:
        """What a first layer reads, time-major; vectors [T, B, E] where dropout is on them."""
        if table is not None and self.embedding_dropout and not deterministic:
            table = drop(table, self.make_rng("dropout"), self.embedding_dropout, axes=(1,))
        inputs = TokenInputs(tokens, table, vocab_size)
        if not self.input_dropout or deterministic:
            return inputs
        axes = (0,) if self.variational else ()
        return drop(inputs.rows(), self.make_rng("dropout"), self.input_dropout, axes)

    def output_dropout(self, hidden: Float[Array, "B T A"]) -> Float[Array, "B T A"]:
        """Dropout on what the output layer reads."""
        if not self.dropout:
            return hidden
        axes = (1,) if self.variational else ()
        return drop(hidden, self.make_rng("dropout"), self.dropout, axes)


def check_settings(model: Seq2Seq) -> None:
    """UserError where settings of a model do not go together."""
    if model.input_feeding and model.attention == "none":
        raise UserError(
            "`input_feeding` feeds what attention found, and `attention` is none; "
            "choose one, such as general, or turn `input_feeding` off"
        )
    for name in ("tied", "shared_embedding"):
        if getattr(model, name) and not model.embedding_size:
            raise UserError(
                f"`{name}` needs an embedding, and `embedding_size` is 0; set it, or turn it off"
            )
    if model.tied and model.output_size != model.embedding_size:
        raise UserError(
            "`decoder_last_size` must be 0 or `embedding_size`, "
            f"{model.embedding_size}, where the output is tied and there is no attention, got "
            f"{model.decoder_last_size}"
        )
    if model.shared_embedding and model.source_vocab_size != model.target_vocab_size:
        raise UserError(
            "`shared_embedding` needs one vocabulary for both sides, got "
            f"{model.source_vocab_size} and {model.target_vocab_size} tokens; share the "
            "tokenizer, or turn it off"
        )


def reversed_rows(x: Shaped[Array, "B S"], lengths: Int[Array, "B"]) -> Shaped[Array, "B S"]:
    """The real part of each row from its end; the rest stays where it is."""
    places = jnp.arange(x.shape[1], dtype=lengths.dtype)
    ends = lengths[:, None]
    places = jnp.where(places < ends, ends - 1 - places, places)
    return jnp.take_along_axis(x, places, axis=1)


def seq2seq_loss(
    model: Seq2Seq,
    params: PyTree,
    carry: PyTree,
    batch: Any,
    key: Array | None = None,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], LossAux]:
    """Cross-entropy of the targets' tokens, each given the source and the target before it.

    Args:
        model: the module.
        params: its parameters.
        carry: passed through: no pair goes on in the next batch.
        batch: `sources` Int[B, S] and `source_lengths` Int[B]; `targets` Int[B, T + 1] of which
            the first T tokens are read and the last T foretold, and `target_lengths` Int[B] of all
            T + 1; `weights` Float[B], 0 for a row that only fills the batch. Padding counts
            nowhere.
        key: random key of dropout; None switches dropout off.
        label_smoothing: the share of each target that is spread evenly over all tokens; an adaptive
            softmax scores all tokens then.

    Returns:
        The scalar to differentiate, in nats a token, and the sums over the foretold tokens: "nll",
        which is not smoothed, and "token_accuracy", of tokens that no other has a higher logit
        than (not of an adaptive softmax in training, which has not all logits).

    Source: Szegedy et al. (2016) for label smoothing.
    """

    def run(model: Seq2Seq) -> OutputLoss:
        start = model.encode(batch.sources, batch.source_lengths, key is None)
        # Padding stands after the real steps, so that what is made of it goes nowhere.
        _, hidden = model.decode(batch.targets[:, :-1], start, None, key is None)
        hidden = hidden if key is None else model.output_dropout(hidden)
        rows = hidden.reshape(-1, hidden.shape[-1])
        smoothed = {"label_smoothing": label_smoothing}
        return model.losses(rows, targets.reshape(-1), weights, hits=key is None, **smoothed)

    targets = batch.targets[:, 1:]
    real = real_steps(targets.shape[1], batch.target_lengths - 1).T
    weights = jnp.where(real, batch.weights[:, None], 0).reshape(-1)
    rngs = None if key is None else {"dropout": key}
    loss: Any = nn.apply(run, model)({"params": params}, rngs=rngs)

    def total(values: Array) -> Array:
        return jnp.where(weights > 0, values * weights, 0).sum()

    count = weights.sum()
    sums = {"nll": Sum(total(loss.nll), count)}
    if loss.hits is not None:
        sums["token_accuracy"] = Sum(total(loss.hits.astype(jnp.float32)), count)
    return loss.total / jnp.where(count > 0, count, 1), LossAux(carry, sums, count)


def language_model_part(
    params: PyTree, side: Literal["encoder", "decoder"], *, shared_embedding: bool = False
) -> PyTree:
    """What one side of an encoder-decoder takes over from a language model.

    Args:
        params: of a `LanguageModel`.
        side: "encoder" takes the embedding and the layers, as those that read forward; "decoder"
            also the output layer.
        shared_embedding: both sides of the model have one embedding.

    Returns:
        The part of a `Seq2Seq`'s parameters that it is.
    """
    part: dict[str, Any] = {side: params["lstm"]}
    embedding = "embedding" if side == "decoder" or shared_embedding else "source_embedding"
    names = {"embedding": embedding}
    if side == "decoder":
        names |= {name: name for name in ("output_kernel", "output_bias", "output")}
    part |= {new: params[old] for old, new in names.items() if old in params}
    return part
