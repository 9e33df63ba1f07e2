"""The LSTM language model: its module, its loss, and its pass over a whole prompt."""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.models.token_output import TokenOutput
from jaxgen.nn.dropout import drop
from jaxgen.nn.inputs import TokenInputs
from jaxgen.nn.lstm import LSTM
from jaxgen.ops.clusters import Clusters
from jaxgen.ops.lstm import LSTMCarry, zero_carry
from jaxgen.ops.sampled_loss import Candidates, log_uniform_loss
from jaxgen.types import Array, Bool, Float, Int, LossAux, PyTree, Sum

Condition = Literal["input", "carry", "film"]


class LanguageModelCarry(NamedTuple):
    """The state of a language model between two steps."""

    layers: tuple[LSTMCarry, ...]
    labels: Int[Array, "B"] | None
    """What the text is conditioned on; it rides along unchanged. None: unconditioned."""
    gate_rows: Float[Array, "B G"] | None = None
    """What the first layer's pre-activations get at every step, beside that of a label; it rides
    along too. The noise of a text generator enters so."""


class LanguageModel(TokenOutput):
    """Tokens in, logits of the next token out.

    Parameters: `embedding` [V, E] (absent with one-hot inputs), `lstm`, those of `TokenOutput`; and
    what a label does, a row for each of N labels: `label_gates` [N, 4H], `label_carry` [N, 2 *
    units of all layers], or `label_film` [N, 2H].
    """

    vocab_size: int
    hidden_size: int
    num_layers: int = 1
    embedding_size: int = 0
    """0 feeds one-hot tokens: the first layer's input kernel is then the embedding."""
    tied: bool = False
    """The embedding is the output kernel too; the last layer then has `embedding_size` units."""
    residual: bool = False
    cell: str = "lstm"
    forget_bias: float = 1.0
    dropout: float = 0.0
    """Dropout on the last layer's output."""
    layer_dropout: float | None = None
    """Dropout between layers; None: as `dropout`."""
    input_dropout: float = 0.0
    embedding_dropout: float = 0.0
    weight_drop: float = 0.0
    variational: bool = True
    num_labels: int = 0
    """Labels, the null label included: it is the last, and stands for no label."""
    condition: Condition = "input"
    """Where the label enters. "input": added to the first layer's pre-activations, as an embedded
    label that is joined to each input is; "carry": the first carry is the label's own; "film": the
    last layer's output is scaled and shifted (FiLM: Perez et al. 2018)."""
    clusters: Clusters | None = None
    """Those of an adaptive softmax; None: a full one."""
    tail_divisor: float = 4.0
    """See `jaxgen.nn.adaptive_softmax`."""
    dtype: Any = jnp.float32
    backend: str = "auto"
    """What runs the recurrence, see `jaxgen.ops.backends`."""

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        last = self.embedding_size if self.tied else self.hidden_size
        return (self.hidden_size,) * (self.num_layers - 1) + (last,)

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        self.lstm = LSTM(
            self.hidden_sizes,
            residual=self.residual,
            dropout=self.dropout if self.layer_dropout is None else self.layer_dropout,
            variational=self.variational,
            weight_drop=self.weight_drop,
            cell=self.cell,
            forget_bias=self.forget_bias,
            time_major=True,
            dtype=self.dtype,
            backend=self.backend,
        )
        if self.embedding_size:
            shape = (self.vocab_size, self.embedding_size)
            init = partial(jax.random.uniform, minval=-0.1, maxval=0.1)
            self.embedding = self.param("embedding", init, shape)
        self.set_up_output(self.hidden_sizes[-1], self.vocab_size)
        if self.num_labels:
            width = {
                "input": 4 * self.hidden_sizes[0],
                "carry": 2 * sum(self.hidden_sizes),
                "film": 2 * self.hidden_sizes[-1],
            }[self.condition]
            name = "label_gates" if self.condition == "input" else f"label_{self.condition}"
            table_init = nn.initializers.normal(0.1)
            self.label_table = self.param(name, table_init, (self.num_labels, width))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        carry: LanguageModelCarry | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        resets: Bool[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> tuple[LanguageModelCarry, Float[Array, "B T V"]]:
        """Read tokens and predict the next one at every step.

        Args:
            tokens: in [0, vocab_size).
            carry: from `initial_carry` or an earlier call; None starts from zeros.
            mask: True = real token; a padded step leaves the carry alone.
            resets: True = a document begins here.
            deterministic: no dropout; otherwise the `dropout` random stream is needed.

        Returns:
            The carry after the last real token, and float32 logits.
        """
        carry = self.first_carry(tokens.shape[0]) if carry is None else carry
        carry, hidden = self.hidden_states(
            tokens.T,
            carry,
            None if mask is None else mask.T,
            None if resets is None else resets.T,
            deterministic,
        )
        return carry, self.logits(hidden.swapaxes(0, 1))

    def initial_carry(
        self, batch_size: int, labels: Int[Array, "B"] | None = None
    ) -> LanguageModelCarry:
        """A zero carry, which needs no parameters; labels are by default the null label."""
        layers = tuple(zero_carry(batch_size, size, self.dtype) for size in self.hidden_sizes)
        if labels is None and self.num_labels:
            labels = jnp.full((batch_size,), self.num_labels - 1, jnp.int32)
        return LanguageModelCarry(layers, labels)

    def first_carry(
        self, batch_size: int, labels: Int[Array, "B"] | None = None
    ) -> LanguageModelCarry:
        """The carry before the first token: that of the label, where it enters there."""
        carry = self.initial_carry(batch_size, labels)
        if not self.num_labels or self.condition != "carry":
            return carry
        ends = list(accumulate(size for size in self.hidden_sizes for _ in range(2)))
        parts = jnp.split(self.label_table[carry.labels], ends[:-1], axis=-1)
        layers = tuple(
            LSTMCarry(c, jnp.tanh(h).astype(self.dtype))
            for c, h in zip(parts[::2], parts[1::2], strict=True)
        )
        return carry._replace(layers=layers)

    def hidden_states(
        self,
        tokens: Int[Array, "T B"],
        carry: LanguageModelCarry,
        mask: Bool[Array, "T B"] | None = None,
        resets: Bool[Array, "T B"] | None = None,
        deterministic: bool = True,
    ) -> tuple[LanguageModelCarry, Float[Array, "T B H"]]:
        """Outputs of the last layer, time-major, before the output dropout."""
        inputs = self._inputs(tokens, deterministic)
        condition = self.condition if self.num_labels else None
        rows = self.label_table[carry.labels] if condition == "input" else None
        layers, hidden = self.lstm(
            inputs,
            carry.layers,
            mask=mask,
            resets=resets,
            gate_bias_rows=added_rows(rows, carry.gate_rows),
            deterministic=deterministic,
        )
        if condition == "film":
            hidden = modulated(hidden, self.label_table[carry.labels])
        return carry._replace(layers=layers), hidden

    def _inputs(self, tokens: Array, deterministic: bool) -> TokenInputs | Array:
        if not self.embedding_size:
            return TokenInputs(tokens, None, self.vocab_size)
        table = self.embedding
        if self.embedding_dropout and not deterministic:
            table = drop(table, self.make_rng("dropout"), self.embedding_dropout, axes=(1,))
        inputs = TokenInputs(tokens, table, self.vocab_size)
        if not self.input_dropout or deterministic:
            return inputs
        axes = (0,) if self.variational else ()
        return drop(inputs.rows(), self.make_rng("dropout"), self.input_dropout, axes)

    def output_dropout(self, hidden: Float[Array, "T B H"]) -> Float[Array, "T B H"]:
        """Dropout on time-major outputs of the last layer."""
        if not self.dropout:
            return hidden
        axes = (0,) if self.variational else ()
        return drop(hidden, self.make_rng("dropout"), self.dropout, axes)


def added_rows(*rows: Float[Array, "B G"] | None) -> Array | None:
    """The sum of those that there are."""
    there = [row for row in rows if row is not None]
    return sum(there[1:], there[0]) if there else None


def modulated(hidden: Float[Array, "*T B H"], rows: Float[Array, "B D"]) -> Array:
    """`hidden * (1 + scale) + shift`, in its type; the rows hold scale and shift (D = 2H)."""
    scale, shift = jnp.split(rows.astype(hidden.dtype), 2, axis=-1)
    return hidden * (1 + scale) + shift


def language_model_loss(
    model: LanguageModel,
    params: PyTree,
    carry: LanguageModelCarry,
    batch: dict[str, Array],
    key: Array | None = None,
    *,
    activation_penalty: float = 0.0,
    temporal_penalty: float = 0.0,
    candidates: Candidates | None = None,
) -> tuple[Float[Array, ""], LossAux]:
    """Dense next-token loss over one window of truncated back-propagation.

    Args:
        model: the module.
        params: its parameters.
        carry: state before the window; its gradient is not followed (truncation).
        batch: `tokens` Int[B, T+1]: inputs are the first T, targets the last T; optional `mask`
            Bool[B, T] (True = counts) and `resets` Bool[B, T] (True = a document begins).
        key: random key of dropout and of sampled softmax; None switches both off.
        activation_penalty: alpha of AWD-LSTM: times the mean square of the dropped-out outputs.
        temporal_penalty: beta of AWD-LSTM: times the mean squared change of the outputs.
        candidates: what sampled softmax draws from; None: the softmax is over all tokens.

    Returns:
        The scalar to differentiate (mean nats per token plus penalties), and the state after the
        window with the plain sum of nats, "nll", and its token count; with sampled softmax the sum
        is of nats among the drawn tokens, "sampled_nll", which is no bound of the other.

    Source: Merity, Keskar & Socher (2018) for the penalties.
    """
    tokens = batch["tokens"].T
    mask, resets = (batch[name].T if name in batch else None for name in ("mask", "resets"))
    targets = tokens[1:].reshape(-1)
    real = jnp.ones(targets.shape, bool) if mask is None else mask.reshape(-1)
    weights = real.astype(jnp.float32)
    draw = None if candidates is None or key is None else (jax.random.fold_in(key, 1), candidates)

    def run(model: LanguageModel) -> tuple:
        carry_after, hidden = model.hidden_states(tokens[:-1], carry, mask, resets, key is None)
        dropped = hidden if key is None else model.output_dropout(hidden)
        rows = dropped.reshape(-1, dropped.shape[-1])
        if draw is None:
            nll = model.losses(rows, targets, weights, hits=False).total
        else:
            layer = model.output_layer()
            nll = log_uniform_loss(*draw, rows, *layer, targets, weights)
        return carry_after, hidden, dropped, nll

    rngs = None if key is None else {"dropout": key}
    after, hidden, dropped, nll = nn.apply(run, model)({"params": params}, rngs=rngs)
    count = real.sum().astype(jnp.float32)
    loss = nll / jnp.maximum(count, 1)
    if activation_penalty:
        loss += activation_penalty * jnp.square(dropped.astype(jnp.float32)).mean()
    if temporal_penalty:
        change = jnp.diff(hidden.astype(jnp.float32), axis=0)
        loss += temporal_penalty * jnp.square(change).mean()
    name = "nll" if draw is None else "sampled_nll"
    return loss, LossAux(after, {name: Sum(nll, count)}, count)


@dataclass(frozen=True)
class LanguageModelPrefill:
    """`prefill(params, carry, tokens[B, T], mask[B, T]) -> (carry, logits[B, T, V])`."""

    model: LanguageModel

    def __call__(
        self,
        params: PyTree,
        carry: LanguageModelCarry,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
    ) -> tuple[LanguageModelCarry, Float[Array, "B T V"]]:
        """Read a whole prompt."""
        return self.with_hidden(params, carry, tokens, mask)[:2]

    def with_hidden(
        self,
        params: PyTree,
        carry: LanguageModelCarry,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
    ) -> tuple[LanguageModelCarry, Float[Array, "B T V"], Float[Array, "B T H"]]:
        """The same, and the outputs of the last layer, for `jaxgen.generation.cache`."""
        apply: Any = partial(self.model.apply, {"params": params})
        after, hidden = apply(tokens.T, carry, mask.T, method="hidden_states")
        hidden = hidden.swapaxes(0, 1)
        return after, apply(hidden, method="logits"), hidden


def prefill_fn_of(model: LanguageModel) -> LanguageModelPrefill:
    """The pass over a whole prompt of a model.

    Its backend is chosen anew: the one a model is trained with may know no masks, or not be here.
    """
    return LanguageModelPrefill(model.clone(backend="auto"))
