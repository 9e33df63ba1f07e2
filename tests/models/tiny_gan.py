"""A generator and discriminators of a few units, with random parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.ragged import LabelledBatch
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.text_discriminator import CNNDiscriminator, LSTMDiscriminator
from jaxgen.models.text_gan import TextGenerator, Texts, generator_nll, next_logits

START = 0
# Compiled whole: operation by operation takes many small programs.
scores_of = jax.jit(TextGan.scores, static_argnums=0)
sample_of = jax.jit(TextGan.sample, static_argnums=0)
logits_of = jax.jit(next_logits, static_argnums=(0, 4))
nll_of = jax.jit(generator_nll, static_argnums=0, static_argnames="start_id")


def randomised(params: Any, seed: int, scale: float = 0.5) -> Any:
    """Parameters of which none is zero, so that a test would see one that is left out."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    moved = [x + scale * random.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(structure, moved)


def shapes_of(model: Any, *inputs: Any) -> Any:
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"],
    )


def made_gan(
    vocab_size: int,
    steps: int,
    *,
    discriminator: str = "lstm",
    labels: int = 0,
    noise: int = 0,
    end_id: int | None = None,
    **settings: Any,
) -> tuple[TextGan, dict[str, Any]]:
    """The models, and their parameters by part."""
    generator = TextGenerator(
        vocab_size=vocab_size,
        hidden_size=4,
        embedding_size=3,
        num_labels=labels,
        noise_size=noise,
    )
    if discriminator == "cnn":
        judge: Any = CNNDiscriminator(vocab_size, 3, (1, 2), (3, 2), num_labels=labels)
    else:
        pooling = () if discriminator == "lstm" else ("last",)
        judge = LSTMDiscriminator(vocab_size, 3, 4, pooling=pooling, num_labels=labels, **settings)
    ids, lengths = jnp.zeros((1, steps), jnp.int32), jnp.full((1,), steps, jnp.int32)
    params = {
        "generator": randomised(shapes_of(generator, ids), 1),
        "discriminator": randomised(shapes_of(judge, ids, lengths), 2),
    }
    return TextGan(generator, judge, START, end_id), params


def batch_of(
    vocab_size: int, rows: int, steps: int, *, labels: int = 0, ragged: bool = False
) -> LabelledBatch:
    """Random texts; if ragged, of different lengths, the last row one that only fills."""
    random = np.random.default_rng(3)
    tokens = random.integers(0, vocab_size, (rows, steps + 1)).astype(np.int32)
    tokens[:, 0] = START
    lengths = np.full(rows, steps + 1, np.int32)
    if ragged:
        lengths = random.integers(2, steps + 2, rows).astype(np.int32)
        lengths[-1] = 0
    classes = random.integers(0, max(labels, 1), rows).astype(np.int32)
    return LabelledBatch(*map(jnp.asarray, (tokens, lengths, classes, np.float32(lengths > 0))))


def texts_of(tokens: Any) -> Texts:
    """Whole texts without labels."""
    tokens = jnp.asarray(tokens, jnp.int32)
    rows, steps = tokens.shape
    lengths, labels = jnp.full((rows,), steps, jnp.int32), jnp.zeros((rows,), jnp.int32)
    return Texts(tokens, lengths, labels, jnp.ones(rows))
