"""The two models of a text GAN, and its generator as a text model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TextGanExperiment
from jaxgen.evaluation.oracle import blocks
from jaxgen.generation.checks import check_key, row_keys
from jaxgen.generation.constrained_text import constrained_model
from jaxgen.generation.guidance import Guidance
from jaxgen.generation.requests import Request
from jaxgen.generation.text import TextModel
from jaxgen.generation.utf8 import utf8_automaton
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.language_model import prefill_fn_of
from jaxgen.models.text_discriminator import CNNDiscriminator, LSTMDiscriminator, TextDiscriminator
from jaxgen.models.text_gan import (
    GeneratorCondition,
    TextGenerator,
    Texts,
    initial_carry_of,
)
from jaxgen.tasks import language_model
from jaxgen.tasks.task import Files, tokenizer_of
from jaxgen.tasks.text_gan_data import labels_of
from jaxgen.training.seeds import SeedLayout
from jaxgen.types import Array, Float, Int, PyTree

ROWS = 1024
"""Texts that are sampled in one compiled call, so that their logits fit into memory."""


def build_gan(
    experiment: TextGanExperiment, files: Files, seeds: SeedLayout | None = None
) -> TextGan:
    """The Flax modules that the settings describe, and how texts begin and end."""
    config, tokenizer, names = experiment.model, tokenizer_of(files), labels_of(files)
    shared: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "num_labels": len(names) + 1 if names else 0,
    }
    backend = "scan" if seeds else "auto"
    generator = TextGenerator(
        **shared,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        noise_size=config.noise_size,
        backend=backend,
    )
    shared |= {
        "embedding_size": config.discriminator_embedding_size,
        "dropout": config.discriminator_dropout,
    }
    discriminator: TextDiscriminator
    if config.discriminator == "cnn":
        widths, filters = config.filter_widths, config.filters
        discriminator = CNNDiscriminator(**shared, widths=widths, filters=filters)
    else:
        discriminator = LSTMDiscriminator(
            **shared,
            hidden_size=config.discriminator_hidden_size,
            num_layers=config.discriminator_layers,
            cell="layernorm_lstm" if config.layer_norm else "lstm",
            pooling=config.discriminator_pooling,
            backend=backend,
        )
    return TextGan(generator, discriminator, tokenizer.start_id, tokenizer.eos_id)


def init_params(gan: TextGan, key: Array) -> PyTree:
    """Fresh parameters: of both models, and of one that learns by maximum likelihood alone.

    `adversarial_steps` counts the generator's adversarial steps.
    """
    keys = jax.random.split(key)
    generator = language_model.init_params(gan.generator, keys[0])
    ones = jnp.ones((1,), jnp.int32)
    discriminator: Any = gan.discriminator.init(keys[1], ones[:, None], ones, 0 * ones)
    return {
        "generator": generator,
        "discriminator": discriminator["params"],
        "mle": jax.tree.map(jnp.copy, generator),  # no buffer may be in a state twice
        "adversarial_steps": jnp.int32(0),
    }


@dataclass(frozen=True, eq=False)
class GanTextModel(TextModel):
    """The generator of a text GAN; where it reads noise, each text has some of its own.

    Attributes:
        gan: the models.
        parts: the parameters of all of them, see `init_params`.
    """

    gan: TextGan | None = None
    parts: PyTree = None

    def _request(self, prompt: Any, options: dict[str, Any], n: int | None = None) -> Request:
        request = super()._request(prompt, options, n)
        if self.gan is None or not self.gan.generator.noise_size or request.after is not None:
            return request  # a state that is continued keeps its noise
        rows, size = request.rows.tolist(), self.gan.generator.noise_size
        keys = row_keys(jnp.asarray(check_key(options.get("key", 0), len(rows))), len(rows))
        noise: Any = np.asarray(_noise(keys, size))
        return replace(
            request,
            prompts=[request.prompts[row] for row in rows],
            context=[request.context[row] for row in rows],
            rows=np.arange(len(rows), dtype=np.int32),
            condition=_with_noise(request.condition, rows, noise),
        )


@partial(jax.jit, static_argnums=1)
def _noise(keys: Array, size: int) -> Float[Array, "N Z"]:
    """Noise of each row: its key's, folded with a number that no step has."""
    last = jnp.iinfo(jnp.int32).max
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, last), (size,)))(keys)


def _with_noise(condition: Any, rows: Sequence[int], noise: Any) -> Any:
    """What rows of a request are made from: a label each, several labels, or none; and noise."""
    if condition is None:
        return GeneratorCondition(None, noise)
    condition = jax.tree.map(lambda x: np.asarray(x)[rows] if np.ndim(x) else x, condition)
    if not isinstance(condition, Guidance):
        return GeneratorCondition(condition, noise)
    labels, null, weights = condition
    each: Any = np.broadcast_to(noise[:, None], (*labels.shape, noise.shape[-1]))
    return Guidance(GeneratorCondition(labels, each), GeneratorCondition(null, noise), weights)


def text_model(experiment: TextGanExperiment, files: Files, params: PyTree) -> TextModel:
    """The generator with strings in and out."""
    gan, tokenizer = build_gan(experiment, files), tokenizer_of(files)
    lm = GanTextModel(
        params=params.get("generator"),
        config=experiment,
        tokenizer=tokenizer,
        step_fn=step_fn_of(gan.generator),
        prefill_fn=prefill_fn_of(gan.generator),
        initial_carry=initial_carry_of(gan.generator),
        num_labels=gan.generator.num_labels,
        labels=labels_of(files),
        end_token=tokenizer.eos_id,
        gan=gan,
        parts=params,
    )
    if tokenizer.kind != "byte":
        return lm
    return constrained_model(lm, utf8_automaton(tokenizer.vocab_size))


def tempered(params: PyTree, temperature: float) -> PyTree:
    """A generator whose logits are divided by a temperature."""
    output = {name: params[name] / temperature for name in ("output_kernel", "output_bias")}
    return {**params, **output}


@partial(jax.jit, static_argnames=("gan", "length"))
def _draw(
    gan: TextGan, params: PyTree, labels: Int[Array, "B"], key: Array, *, length: int
) -> tuple[Int[Array, "B T"], Int[Array, "B"]]:
    ones = jnp.ones(labels.shape, jnp.int32)
    like = Texts(jnp.zeros((len(labels), length), jnp.int32), ones, labels, jnp.float32(ones))
    texts, _ = gan.sample({"generator": params}, like, key)
    return texts.tokens, texts.lengths


def sample_texts(
    gan: TextGan, params: PyTree, labels: Int[np.ndarray, " N"], *, length: int, seed: int = 0
) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """Texts of a generator, and how many tokens each has, its end among them.

    Args:
        gan: the models.
        params: of the generator; see `tempered`.
        labels: of each text; of no meaning where the model has none.
        length: most tokens of a text.
        seed: of the samples.
    """
    found = []
    for number, (rows, count) in enumerate(blocks(len(labels), ROWS)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        drawn = _draw(gan, params, labels[rows], key, length=length)
        found.append([np.asarray(x)[:count] for x in drawn])
    tokens, lengths = map(np.concatenate, zip(*found, strict=True))
    return tokens, lengths
