"""Tiny encoder-decoders and batches of pairs, which several test files share."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.models.seq2seq import Seq2Seq, seq2seq_loss
from jaxgen.ops.clusters import make_clusters

V_SOURCE, V, B, S, T, H = 9, 11, 4, 5, 6, 4
SOURCE_LENGTHS = (5, 2, 3, 1)
TARGET_LENGTHS = (7, 4, 2, 5)
"""<bos> and <eos> counted."""
SMOOTHING = 0.2
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"attention": "none", "bidirectional": False},
    "additive": {"attention": "additive", "embedding_size": 3, "num_layers": 2},
    "dot": {"attention": "dot", "embedding_size": 3, "encoder_size": H // 2},
    "general": {"num_layers": 2, "residual": True, "reverse_source": True},
    "scaled": {"attention": "scaled", "embedding_size": 3, "tied": True},
    "fed": {"embedding_size": 3, "num_layers": 2, "input_feeding": True, "residual": True},
    "fed_additive": {
        "attention": "additive",
        "embedding_size": 3,
        "input_feeding": True,
        "tied": True,
    },
    "adaptive": {
        **{"attention": "scaled", "embedding_size": 3, "tied": True, "tail_divisor": 1.5},
        "clusters": make_clusters(range(V), (3, 6)),
    },
}
CLUSTERED = ([8, 9, 10], [5, 6, 7], [0, 1, 2, 3, 4])
"""The tokens of each cluster of "adaptive"."""


class Batch(NamedTuple):
    sources: Any
    source_lengths: Any
    targets: Any
    target_lengths: Any
    weights: Any


def batch_of(
    source_lengths=SOURCE_LENGTHS, target_lengths=TARGET_LENGTHS, weights=(1, 1, 1, 1), seed=0
):
    random = np.random.default_rng(seed)
    return Batch(
        jnp.asarray(random.integers(0, V_SOURCE, (B, S)), jnp.int32),
        jnp.asarray(source_lengths, jnp.int32),
        jnp.asarray(random.integers(0, V, (B, T + 1)), jnp.int32),
        jnp.asarray(target_lengths, jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


@cache
def made(name, **options):
    """A model and parameters of its shapes: drawn here, since to compile `init` takes long."""
    model = Seq2Seq(V_SOURCE, V, H, **(VARIANTS[name] | options))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch_of()[:3])["params"]
    random = np.random.default_rng(0)
    draw = lambda of: jnp.asarray(random.normal(size=of.shape) / 1.5, jnp.float32)  # noqa: E731
    return model, jax.tree.map(draw, shapes)


@partial(jax.jit, static_argnums=0)
def read(model, params, batch):
    """Teacher-forced logits."""
    return model.apply({"params": params}, *batch[:3])


@partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params, batch):
    """The smoothed loss, its sums and its gradient: one program that many tests share."""
    loss = lambda params: seq2seq_loss(  # noqa: E731
        model, params, (), batch, label_smoothing=SMOOTHING
    )
    (loss, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return loss, aux, gradient
