"""The generator of a text GAN: a language model that noise may enter, its samples and its loss."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel, LanguageModelCarry
from jaxgen.nn.inputs import real_steps
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.ops.lstm import LSTMCarry
from jaxgen.types import Array, Bool, Float, Int, LossAux, PyTree, Sum


class GeneratorCondition(NamedTuple):
    """What a text is made from, beside chance."""

    labels: Int[Array, "B"] | None = None
    """As those of a `LanguageModel`; None: no label."""
    noise: Float[Array, "B Z"] | None = None
    """Standard normal numbers, see `draw_condition`; None: zeros."""


class TextGenerator(LanguageModel):
    """A `LanguageModel` that may read noise: the same at every step of a text, another a text.

    Parameters: those of a `LanguageModel`; with noise `noise_gates` [Z, 4H], which is what noise
    joined to each input gives, and `noise_carry` [Z, 2 * units of all layers], whose part for `h`
    goes through a tanh. Its step function is that of a language model, `decoding.step_fn_of`.
    """

    noise_size: int = 0
    """Numbers of noise of a text; 0: chance is in the tokens alone."""

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        if self.noise_size:
            init = nn.initializers.glorot_uniform()
            gates, states = 4 * self.hidden_sizes[0], 2 * sum(self.hidden_sizes)
            self.noise_gates = self.param("noise_gates", init, (self.noise_size, gates))
            self.noise_carry = self.param("noise_carry", init, (self.noise_size, states))
        super().setup()

    def first_carry(
        self,
        batch_size: int,
        labels: Int[Array, "B"] | None = None,
        noise: Float[Array, "B Z"] | None = None,
    ) -> LanguageModelCarry:
        """The carry before the first token; of no noise, the one of zeros."""
        carry = super().first_carry(batch_size, labels)
        if not self.noise_size or noise is None:
            return carry
        ends = list(accumulate(size for size in self.hidden_sizes for _ in range(2)))
        parts = jnp.split(jnp.matmul(noise, self.noise_carry), ends[:-1], axis=-1)
        layers = tuple(
            LSTMCarry(old.c + c, (old.h + jnp.tanh(h)).astype(self.dtype))
            for old, c, h in zip(carry.layers, parts[::2], parts[1::2], strict=True)
        )
        return carry._replace(layers=layers, gate_rows=jnp.matmul(noise, self.noise_gates))


@dataclass(frozen=True)
class GeneratorInitialCarry:
    """`initial_carry(params, batch_size, condition)` of a generator, as generation asks for it."""

    model: TextGenerator

    def __call__(
        self,
        params: PyTree,
        batch_size: int,
        condition: GeneratorCondition | Int[Array, "B"] | None = None,
    ) -> LanguageModelCarry:
        """The carry before the first token; the condition is labels, or a `GeneratorCondition`."""
        if not isinstance(condition, GeneratorCondition):
            condition = GeneratorCondition(condition)
        variables: Any = {"params": params}
        carry: Any = self.model.apply(variables, batch_size, *condition, method="first_carry")
        return carry


def initial_carry_of(model: TextGenerator) -> GeneratorInitialCarry:
    """The initial carry of a generator, as generation asks for it."""
    return GeneratorInitialCarry(model)


def draw_condition(
    model: TextGenerator, key: Array, batch_size: int, labels: Int[Array, "B"] | None = None
) -> GeneratorCondition:
    """The labels, where the model has any, and noise, where it reads some."""
    size = model.noise_size
    noise = jax.random.normal(key, (batch_size, size)) if size else None
    return GeneratorCondition(labels if model.num_labels else None, noise)


class Texts(NamedTuple):
    """Texts as a discriminator reads them: without the start token, with the end token."""

    tokens: Int[Array, "B T"]
    lengths: Int[Array, "B"]
    """Tokens of each text, its end among them; what stands beyond them is of no meaning."""
    labels: Int[Array, "B"]
    weights: Float[Array, "B"]
    """0 for a row that only fills the batch, else 1."""


def real_texts(batch: Any) -> Texts:
    """The texts of a batch.

    Args:
        batch: `tokens` Int[B, T + 1], of which the first is the start token; `lengths` Int[B], the
            start counted, 0 for a row that only fills the batch; `labels` Int[B]; `weights`
            Float[B].
    """
    lengths = jnp.maximum(batch.lengths - 1, 0)
    return Texts(batch.tokens[:, 1:], lengths, batch.labels, batch.weights)


def lengths_of(tokens: Int[Array, "*B T"], end_id: int | None) -> Int[Array, "*B"]:
    """Tokens up to the first end token, that included; all where there is none."""
    steps = tokens.shape[-1]
    if end_id is None:
        return jnp.full(tokens.shape[:-1], steps, jnp.int32)
    places = jnp.where(tokens == end_id, jnp.arange(1, steps + 1, dtype=jnp.int32), steps)
    return places.min(axis=-1)


def sample_texts(
    model: TextGenerator,
    params: PyTree,
    like: Texts,
    condition: GeneratorCondition,
    key: Array,
    *,
    start_id: int,
    end_id: int | None,
) -> Texts:
    """As many texts as there are, under the condition, at temperature 1; without a gradient.

    Args:
        model: the generator.
        params: its parameters.
        like: what number, size, labels and weights to have.
        condition: from `draw_condition`.
        key: consumed.
        start_id: the token before the first.
        end_id: the token that ends a text; None: all texts are T tokens long.
    """
    B, T = like.tokens.shape
    params = jax.lax.stop_gradient(params)
    output = generate(
        step_fn_of(model),
        params,
        initial_carry_of(model)(params, B, condition),
        jnp.full((B, 1), start_id, jnp.int32),
        None,
        key,
        SamplingParams(stop_tokens=None if end_id is None else [end_id]),
        max_new_tokens=T,
        num_logprobs=None,
    )
    tokens = jnp.maximum(output.tokens, 0)  # -1 where the parameters are no numbers any more
    return like._replace(tokens=tokens, lengths=lengths_of(tokens, end_id))


def next_logits(
    model: TextGenerator,
    params: PyTree,
    tokens: Int[Array, "B T"],
    condition: GeneratorCondition,
    start_id: int,
    key: Array | None = None,
) -> Float[Array, "B T V"]:
    """Logits of each token of given texts, all read in one pass over time.

    Args:
        model: the generator.
        params: its parameters.
        tokens: texts without their start.
        condition: what they are made from.
        start_id: the token before the first.
        key: of dropout; None switches it off.
    """
    starts = jnp.full_like(tokens[:, :1], start_id)
    inputs = jnp.concatenate([starts, tokens[:, :-1]], axis=1)

    def run(model: TextGenerator) -> Array:
        carry = model.first_carry(len(tokens), *condition)
        hidden = model.hidden_states(inputs.T, carry, deterministic=key is None)[1]
        hidden = hidden if key is None else model.output_dropout(hidden)
        return model.logits(hidden.swapaxes(0, 1))

    rngs = None if key is None else {"dropout": key}
    logits: Any = nn.apply(run, model)({"params": params}, rngs=rngs)
    return logits


def token_weights(texts: Texts) -> Float[Array, "B T"]:
    """1 at each token of a text, 0 beyond its end and in rows that only fill the batch."""
    real: Bool[Array, "T B"] = real_steps(texts.tokens.shape[1], texts.lengths)
    return jnp.where(real.T, texts.weights[:, None], 0)


def generator_nll(
    model: TextGenerator,
    params: PyTree,
    carry: PyTree,
    batch: Any,
    key: Array | None = None,
    *,
    start_id: int,
) -> tuple[Float[Array, ""], LossAux]:
    """Cross-entropy of given texts, as `jaxgen.models.conditional.conditional_loss`, with noise.

    Args:
        model: the generator.
        params: its parameters.
        carry: passed through.
        batch: see `real_texts`.
        key: of dropout and of the noise. Without it there is no dropout, and the noise is drawn
            from a key that is always the same.
        start_id: the token before the first.

    Returns:
        The scalar to differentiate, nats per token, and its sum "nll". With noise that is, in the
        mean over the noise, no less than the nats per token of the texts themselves (Jensen).
    """
    texts = real_texts(batch)
    noise_key, dropout_key = jax.random.split(jax.random.key(0) if key is None else key)
    condition = draw_condition(model, noise_key, len(texts.tokens), texts.labels)
    dropout = None if key is None else dropout_key
    logits = next_logits(model, params, texts.tokens, condition, start_id, dropout)
    weights = token_weights(texts)
    nll = jnp.where(weights > 0, weights * cross_entropy(logits, texts.tokens), 0).sum()
    count = weights.sum()
    return nll / jnp.maximum(count, 1), LossAux(carry, {"nll": Sum(nll, count)}, count)
