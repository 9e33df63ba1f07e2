"""What tells real texts from generated ones: an LSTM with a score a step, and SeqGAN's CNN.

Both read tokens, or rows in the place of tokens that are one-hot or nearly so, which a gradient can
pass; and both know labels by projection (Miyato & Koyama 2018): the score is w . x + b of features
x, and under a label (w + v[label]) . x + b.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nn.dropout import drop
from jaxgen.nn.inputs import TokenInputs, real_steps
from jaxgen.nn.lstm import LSTM
from jaxgen.nn.pooling import Pooling
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Float, Int

SEQGAN_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
"""Tokens that the filters of SeqGAN's discriminator span, for texts of 20 tokens."""
SEQGAN_FILTERS = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
"""How many it has of each."""


class LSTMDiscriminator(nn.Module):
    """A score after each token, or with a pooling one a text.

    Parameters: `embedding` [V, E], `lstm`, `pooling` where it has any, and the scores: `kernel`
    [H], `bias` [], `label_kernel` [N, H].
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int = 1
    cell: str = "lstm"
    """`lstm` or `layernorm_lstm`."""
    pooling: tuple[str, ...] = ()
    """See `jaxgen.nn.pooling`; () for a score a step."""
    num_labels: int = 0
    dropout: float = 0.0
    """Dropout on the features."""
    dtype: Any = jnp.float32
    backend: str = "auto"

    @property
    def per_step(self) -> bool:
        """Whether there is a score after each token."""
        return not self.pooling

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "B T"] | Float[Array, "B T V"],
        lengths: Int[Array, "B"],
        labels: Int[Array, "B"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B S"]:
        """Score texts.

        Args:
            text: tokens, or a row over the vocabulary in the place of each.
            lengths: real tokens of each text; what stands beyond them changes no score of theirs.
            labels: of each text, where the model has labels.
            deterministic: no dropout; otherwise the `dropout` random stream is needed.

        Returns:
            Logits of being real, float32: S = T, those beyond the lengths of no meaning; with a
            pooling S = 1.
        """
        table = self.param("embedding", _embedding_init, (self.vocab_size, self.embedding_size))
        lstm = LSTM(
            (self.hidden_size,) * self.num_layers,
            cell=self.cell,
            time_major=True,
            dtype=self.dtype,
            backend=self.backend,
            name="lstm",
        )
        inputs: Any = (
            TokenInputs(text.T, table, self.vocab_size)
            if text.ndim == 2
            else embedded(text, table).swapaxes(0, 1)
        )
        features = lstm(inputs, lengths=lengths)[1]
        if self.pooling:
            features = Pooling(self.pooling, name="pooling")(features, lengths)[None]
        score = Scores(self.num_labels, self.dropout, name="scores")
        return score(features, labels, deterministic).T


class CNNDiscriminator(nn.Module):
    """SeqGAN's discriminator: filters of several widths, their maxima over time, one highway layer.

    Parameters: `embedding` [V, E]; for each width w `kernel_w` [w * E, F], whose rows are those of
    the first token, then of the second, and `bias_w` [F]; `highway_kernel` [D, 2D] and
    `highway_bias` [2D] with the transform first and its gate second, D filters in all; and the
    scores: `kernel` [D], `bias` [], `label_kernel` [N, D].

    Source: Yu et al. (2017), section 5 and appendix; Zhang & LeCun (2015); Srivastava et al.
    (2015). The paper's two logits of a softmax are one of a sigmoid here.
    """

    vocab_size: int
    embedding_size: int = 64
    widths: tuple[int, ...] = SEQGAN_WIDTHS
    """Tokens that filters span."""
    filters: tuple[int, ...] = SEQGAN_FILTERS
    """How many filters of each width."""
    num_labels: int = 0
    dropout: float = 0.0
    """Dropout on the features; SeqGAN has 0.25."""
    dtype: Any = jnp.float32

    @property
    def per_step(self) -> bool:
        """False: a text has one score."""
        return False

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "B T"] | Float[Array, "B T V"],
        lengths: Int[Array, "B"],
        labels: Int[Array, "B"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B S"]:
        """As `LSTMDiscriminator`, S = 1. Texts shorter than a filter are followed by zeros."""
        table = self.param("embedding", _embedding_init, (self.vocab_size, self.embedding_size))
        x = lookup(table, text) if text.ndim == 2 else embedded(text, table)
        real = real_steps(x.shape[1], lengths).T[..., None]
        x = jnp.where(real, x, 0).astype(self.dtype)
        widest = max(self.widths)
        x = jnp.pad(x, ((0, 0), (0, max(0, widest - x.shape[1])), (0, 0)))
        pooled = [
            self._maxima(x, lengths, width, count)
            for width, count in zip(self.widths, self.filters, strict=True)
        ]
        features = self._highway(jnp.concatenate(pooled, axis=-1))
        score = Scores(self.num_labels, self.dropout, name="scores")
        return score(features[None], labels, deterministic).T

    def _maxima(self, x: Array, lengths: Array, width: int, count: int) -> Array:
        """What each filter of a width finds at most, in windows that lie within the text."""
        B, T, size = x.shape
        windows = T - width + 1
        shape = (width * size, count)
        kernel = self.param(f"kernel_{width}", nn.initializers.glorot_uniform(), shape)
        bias = self.param(f"bias_{width}", nn.initializers.zeros, (count,))
        # One product of plain matrices; under `vmap` over seeds a convolution is a slow one.
        parts = [x[:, start : start + windows] for start in range(width)]
        rows = jnp.concatenate(parts, axis=-1).reshape(B * windows, width * size)
        found = jnp.matmul(rows, kernel.astype(self.dtype)).reshape(B, windows, count)
        last = jnp.maximum(lengths - width, 0)  # a text shorter than the filter has one window
        within = jnp.arange(windows) <= last[:, None]
        lowest = jnp.asarray(jnp.finfo(self.dtype).min, self.dtype)
        found = jnp.where(within[..., None], found, lowest).max(axis=1)
        return nn.relu(found + bias.astype(self.dtype))

    def _highway(self, x: Array) -> Array:
        size = x.shape[-1]
        kernel = self.param("highway_kernel", nn.initializers.glorot_uniform(), (size, 2 * size))
        bias = self.param("highway_bias", _gate_closed, (2 * size,))
        both = jnp.matmul(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)
        new, gate = jnp.split(both, 2, axis=-1)
        gate = nn.sigmoid(gate)
        return gate * nn.relu(new) + (1 - gate) * x


TextDiscriminator = LSTMDiscriminator | CNNDiscriminator


class Scores(nn.Module):
    """A linear score of features, under labels by projection."""

    num_labels: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "S B D"],
        labels: Int[Array, "B"] | None,
        deterministic: bool = True,
    ) -> Float[Array, "S B"]:
        """Score features; float32."""
        if self.dropout and not deterministic:
            features = drop(features, self.make_rng("dropout"), self.dropout)
        size = features.shape[-1]
        features = features.astype(jnp.float32)
        init = nn.initializers.normal(size**-0.5)
        kernel = self.param("kernel", init, (size,))
        bias = self.param("bias", nn.initializers.zeros, ())
        rows = features.reshape(-1, size)
        scores = jnp.matmul(rows, kernel).reshape(features.shape[:-1]) + bias
        if not self.num_labels:
            return scores
        table = self.param("label_kernel", nn.initializers.zeros, (self.num_labels, size))
        if labels is not None:
            scores += (features * lookup(table, labels)).sum(axis=-1)
        return scores


def embedded(rows: Float[Array, "B T V"], table: Float[Array, "V E"]) -> Float[Array, "B T E"]:
    """What rows over the vocabulary make of an embedding: of one-hot rows, `table[tokens]`."""
    flat = jnp.matmul(rows.reshape(-1, rows.shape[-1]), table)
    return flat.reshape(*rows.shape[:-1], table.shape[-1])


def score_weights(
    discriminator: TextDiscriminator,
    steps: int,
    lengths: Int[Array, "B"],
    weights: Float[Array, "B"],
) -> Float[Array, "B S"]:
    """What each score counts: 1, or 0 beyond a text and in rows that only fill a batch."""
    if not discriminator.per_step:
        return jnp.where(lengths > 0, weights, 0)[:, None]
    return jnp.where(real_steps(steps, lengths).T, weights[:, None], 0)


_embedding_init = partial(jax.random.uniform, minval=-0.1, maxval=0.1)


def _gate_closed(key: Array, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
    """Zeros for the transform and -2 for its gate, which then lets the input pass at first."""
    return jnp.zeros(shape, dtype).at[shape[0] // 2 :].set(-2.0)
