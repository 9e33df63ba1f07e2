"""An encoder-decoder as generation takes it: its first carry, its step, its pass over a prefix."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.models.output_step import HeadFirstStep, Output, next_logits, prepare_output
from jaxgen.models.seq2seq import Seq2Seq, Seq2SeqCarry, reversed_rows
from jaxgen.models.stack_step import Cells, prepare_stack, stack_step, top_output
from jaxgen.nn.attention import attend, attention_weights
from jaxgen.nn.inputs import real_steps
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Bool, Float, Int, PyTree


class Seq2SeqDecodingParams(NamedTuple):
    """Parameters of the decoder, rearranged once so that each step is fewer operations."""

    table: Float[Array, "V D"]
    """A row a token: the first layer's pre-activations where folded, else the embedding."""
    cells: Cells
    attention: Any
    """Parameters of the attention by name, or None."""
    output: Output


@dataclass(frozen=True)
class Seq2SeqStep:
    """`step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])` of an encoder-decoder.

    It takes the model's own parameters. `jaxgen.generate` first passes them through `prepare`,
    once, outside its loop; so may any other loop. What the carry knows of the source comes out as
    it went in.
    """

    model: Seq2Seq

    def __call__(
        self,
        params: PyTree | Seq2SeqDecodingParams,
        carry: Seq2SeqCarry,
        tokens: Int[Array, "B"],
    ) -> tuple[Seq2SeqCarry, Float[Array, "B V"]]:
        """Read one target token a row; returns the carry and float32 logits of the next."""
        if not isinstance(params, Seq2SeqDecodingParams):
            params = self.prepare(params)
        carry, x = self.hidden(params, carry, tokens)
        return carry, next_logits(params.output, self.model.clusters, x)

    def hidden(
        self, params: Seq2SeqDecodingParams, carry: Seq2SeqCarry, tokens: Int[Array, "B"]
    ) -> tuple[Seq2SeqCarry, Float[Array, "B A"]]:
        """The new carry and what the output layer reads."""
        model = self.model
        layers, x = stack_step(
            params.cells,
            carry.layers,
            lookup(params.table, tokens),
            residual=model.residual,
            fed=carry.attended,
        )
        if params.attention is not None:
            x = attend(model.attention, params.attention, x[:, None], carry.memory)[:, 0]
        return carry._replace(layers=layers, attended=x if model.input_feeding else None), x

    @property
    def head_first(self) -> HeadFirstStep | None:
        """The same step with its tails left for later; None where it has no tails."""
        clusters = self.model.clusters
        return None if clusters is None else HeadFirstStep(self, clusters)

    def prepare(self, params: PyTree) -> Seq2SeqDecodingParams:
        """Fold the embedding into the first layer and stack the kernels of each other layer."""
        model, dtype = self.model, self.model.dtype
        decoder = dict(params["decoder"])
        feed_kernel = decoder.pop("feed_kernel", None)
        table, cells = prepare_stack(decoder, params.get("embedding"), dtype, feed_kernel)
        attention = params.get("attention")
        if attention is not None:
            attention = {name: kernel.astype(dtype) for name, kernel in attention.items()}
        return Seq2SeqDecodingParams(table, cells, attention, prepare_output(model, params))

    @property
    def attention(self) -> Callable | None:
        """What the last step attended to, see `attended_places`; None without attention."""
        return None if self.model.attention == "none" else partial(attended_places, self)


def attended_places(
    step_fn: Seq2SeqStep, params: PyTree | Seq2SeqDecodingParams, carry: Seq2SeqCarry
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """Weights of the source that a step's logits came from, and which places are real.

    It takes the carry that the step gave back, and computes nothing anew in the program of the
    step. The places are in the order in which the encoder read them.
    """
    if not isinstance(params, Seq2SeqDecodingParams):
        params = step_fn.prepare(params)
    model, memory = step_fn.model, carry.memory
    hidden = top_output([layer.h for layer in carry.layers], model.residual)[:, None]
    weights = attention_weights(model.attention, params.attention, hidden, memory)[:, 0]
    return weights, real_steps(weights.shape[1], memory.lengths).T


@dataclass(frozen=True)
class Seq2SeqInitialCarry:
    """`initial_carry(params, batch_size, condition)`: sources are read here, in one program."""

    model: Seq2Seq

    def __call__(
        self, params: PyTree, batch_size: int, condition: tuple[Any, Any] | None = None
    ) -> Seq2SeqCarry:
        """The carry before the first target token.

        Args:
            params: of the model.
            batch_size: number of sources.
            condition: source tokens Int[B, S], each row filled up at its end, and their lengths
                Int[B].

        Raises:
            UserError: the sources are missing, or not as described.
        """
        sources, lengths = _checked(self.model, batch_size, condition)
        return _encode(self.model, params, sources, lengths)


def initial_carry_of(model: Seq2Seq) -> Seq2SeqInitialCarry:
    """The initial carry of a model, as generation asks for it."""
    return Seq2SeqInitialCarry(_anywhere(model))


def step_fn_of(model: Seq2Seq) -> Seq2SeqStep:
    """The step function of a model, as generation takes it."""
    return Seq2SeqStep(model)


def prefill_fn_of(model: Seq2Seq) -> Callable:
    """`prefill(params, carry, tokens[B, T], mask[B, T]) -> (carry, logits[B, T, V])`."""
    model = _anywhere(model)

    def prefill(
        params: PyTree,
        carry: Seq2SeqCarry,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
    ) -> tuple[Seq2SeqCarry, Float[Array, "B T V"]]:
        def run(model: Seq2Seq) -> tuple[Seq2SeqCarry, Array]:
            after, hidden = model.decode(tokens, carry, mask)
            return after, model.logits(hidden)

        outputs: Any = model.apply({"params": params}, method=run)
        return outputs

    return prefill


def attention_of(
    model: Seq2Seq, params: PyTree, sources: Any, lengths: Any, targets: Any
) -> Float[Array, "B T S"]:
    """Where the model looks, in one pass over given targets.

    Args:
        model: the module.
        params: its parameters.
        sources: Int[B, S], each row filled up at its end.
        lengths: Int[B], real tokens of each source.
        targets: Int[B, T + 1], <bos> first.

    Returns:
        float32 weights of the source's tokens, in their order, when each of the last T target
        tokens is foretold; they add up to 1, and are 0 beyond the source's length.

    Raises:
        UserError: the model has no attention, or the sources are not as described.
    """
    if model.attention == "none":
        raise UserError(
            "`attention` of this model is none, so that it has no weights to show; "
            "train one with attention, such as general"
        )
    targets = jnp.asarray(targets, jnp.int32)
    sources, lengths = _checked(model, len(targets), (sources, lengths))
    return _attention(_anywhere(model), params, sources, lengths, targets)


def _anywhere(model: Seq2Seq) -> Seq2Seq:
    """The backend that training insists on may know no masks, or not be here."""
    return model.clone(backend="auto")


@partial(jax.jit, static_argnums=0)
def _encode(model: Seq2Seq, params: PyTree, sources: Array, lengths: Array) -> Seq2SeqCarry:
    carry: Any = model.apply({"params": params}, sources, lengths, method="encode")
    return carry


@partial(jax.jit, static_argnums=0)
def _attention(
    model: Seq2Seq, params: PyTree, sources: Array, lengths: Array, targets: Array
) -> Array:
    def run(model: Seq2Seq) -> Array:
        carry = model.encode(sources, lengths)
        return model.attention_weights(targets[:, :-1], carry)

    weights: Any = model.apply({"params": params}, method=run)
    if not model.reverse_source:
        return weights
    return jax.vmap(reversed_rows, (1, None), 1)(weights, lengths)


def _checked(
    model: Seq2Seq, batch_size: int, condition: tuple[Any, Any] | None
) -> tuple[Array, Array]:
    """Sources and their lengths as arrays; UserError where they are not what they must be."""
    if not isinstance(condition, tuple) or len(condition) != 2:
        raise UserError(
            "`condition` of an encoder-decoder must be (source tokens [B, S], lengths [B]), got "
            f"{'none' if condition is None else type(condition).__name__}; give it the texts to "
            "translate"
        )
    sources, lengths = (x if hasattr(x, "shape") else np.asarray(x) for x in condition)
    if jnp.ndim(sources) != 2 or len(sources) != batch_size or jnp.shape(lengths) != (batch_size,):
        raise UserError(
            f"sources must have shape [{batch_size}, S] and their lengths [{batch_size}], got "
            f"{jnp.shape(sources)} and {jnp.shape(lengths)}; give a row of tokens, filled up at "
            "its end, for each text"
        )
    size = jnp.shape(sources)[1]
    for name, values, low, high in (
        ("source lengths", lengths, 1, size),
        ("source tokens", sources, 0, model.source_vocab_size - 1),
    ):
        if isinstance(values, jax.core.Tracer):
            continue
        values = np.asarray(values)
        wrong = values[(values < low) | (values > high)]
        if wrong.size:
            raise UserError(f"{name} must be in [{low}, {high}], got {wrong[0]}")
    return jnp.asarray(sources, jnp.int32), jnp.asarray(lengths, jnp.int32)
