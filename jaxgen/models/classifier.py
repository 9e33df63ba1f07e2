"""The LSTM classifier of texts: its module, its loss, and what a language model lends it."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.models.adversarial import adversarial_loss, sigmoid_divergence, softmax_divergence
from jaxgen.nn.dropout import drop
from jaxgen.nn.inputs import TokenInputs, real_steps
from jaxgen.nn.lstm import LSTM
from jaxgen.nn.ngrams import ngram_scores
from jaxgen.nn.pooling import Pooling, maximum, mean
from jaxgen.types import Array, Float, Int, LossAux, PyTree, Sum

Adversarial = Literal["none", "virtual", "plain"]


class TextClassifier(nn.Module):
    """Tokens in, a score of every label out.

    Parameters: `embedding` [V, E] (absent with one-hot inputs) and `lstm`, named as those of a
    `LanguageModel`; `pooling` where it has any; `dense_kernel` [P, D], `dense_bias` [D] where
    there is a hidden layer; `output_kernel` [P or D, C], `output_bias` [C]; where n-grams count
    `ngram_kernel` and `ngram_log_odds` [K, C], the latter to be counted
    (`jaxgen.nn.ngrams.ngram_log_odds`) and ones until then. Of two classes the output has one unit
    z, and the logits are [0, z]: their softmax is the sigmoid of z.
    """

    vocab_size: int
    num_classes: int
    hidden_size: int
    num_layers: int = 1
    embedding_size: int = 0
    """0 feeds one-hot tokens: the first layer's input kernel is then the embedding."""
    last_size: int = 0
    """Units of the last layer, 0: `hidden_size`. A tied language model's is `embedding_size`."""
    bidirectional: bool = False
    pooling: tuple[str, ...] = ("last",)
    """See `jaxgen.nn.pooling`."""
    pool_embedding: bool = False
    """Also pool the embedded tokens, their mean and their maximum, past the LSTM."""
    ngrams: int = 0
    """Also add a score of each n-gram of up to so many tokens, see `jaxgen.nn.ngrams`; 0: none."""
    ngram_buckets: int = 2**18
    """Rows of the table to which n-grams are hashed."""
    multi_label: bool = False
    """Any number of labels may be true of a row: each logit is that of a sigmoid."""
    dense_size: int = 0
    """Units of a hidden layer with ReLU before the output; 0: none."""
    residual: bool = False
    cell: str = "lstm"
    forget_bias: float = 1.0
    dropout: float = 0.0
    """Dropout on the pooled vector."""
    layer_dropout: float | None = None
    """Dropout between layers; None: as `dropout`."""
    input_dropout: float = 0.0
    embedding_dropout: float = 0.0
    weight_drop: float = 0.0
    variational: bool = True
    dtype: Any = jnp.float32
    backend: str = "auto"
    """What runs the recurrence, see `jaxgen.ops.backends`."""

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of each layer and direction."""
        return (self.hidden_size,) * (self.num_layers - 1) + (self.last_size or self.hidden_size,)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parameters that are counted, not trained."""
        return ("ngram_log_odds",) if self.ngrams else ()

    @property
    def num_outputs(self) -> int:
        """Units of the output."""
        return 1 if self.num_classes == 2 and not self.multi_label else self.num_classes

    def setup(self) -> None:
        """Declare the parameters (Flax calls this)."""
        self.lstm = LSTM(
            self.hidden_sizes,
            bidirectional=self.bidirectional,
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
        self.pool = Pooling(self.pooling, self.bidirectional, name="pooling")
        size = self.hidden_sizes[-1] * (2 if self.bidirectional else 1) * len(self.pooling)
        size += 2 * self.embedding_size if self.pool_embedding else 0
        kernel_init, zeros = nn.initializers.glorot_uniform(), nn.initializers.zeros
        if self.dense_size:
            self.dense_kernel = self.param("dense_kernel", kernel_init, (size, self.dense_size))
            self.dense_bias = self.param("dense_bias", zeros, (self.dense_size,))
            size = self.dense_size
        self.output_kernel = self.param("output_kernel", kernel_init, (size, self.num_outputs))
        self.output_bias = self.param("output_bias", zeros, (self.num_outputs,))
        if self.ngrams:
            shape = (self.ngram_buckets, self.num_outputs)
            self.ngram_kernel = self.param("ngram_kernel", zeros, shape)
            self.ngram_log_odds = self.param("ngram_log_odds", nn.initializers.ones, shape)

    def __call__(
        self, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], *, deterministic: bool = True
    ) -> Float[Array, "B C"]:
        """Score every label.

        Args:
            tokens: in [0, vocab_size), each row filled up at its end.
            lengths: real tokens of each row; what stands beyond them changes nothing. A row of
                none is pooled to zeros.
            deterministic: no dropout; otherwise the `dropout` random stream is needed.

        Returns:
            float32 logits: of a softmax over the labels, or with `multi_label` of a sigmoid each.
        """
        inputs = self.inputs(tokens.T, deterministic)
        return self.logits(inputs, tokens.T, lengths, deterministic)

    def inputs(self, tokens: Int[Array, "T B"], deterministic: bool = True) -> TokenInputs | Array:
        """What the first layer reads, time-major; vectors [T, B, E] where dropout is on them."""
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

    def logits(
        self,
        inputs: Float[Array, "T B E"] | TokenInputs,
        tokens: Int[Array, "T B"],
        lengths: Int[Array, "B"],
        deterministic: bool = True,
    ) -> Float[Array, "B C"]:
        """Scores of the labels, float32, given what the first layer reads; tokens give n-grams."""
        hidden = self.lstm(inputs, lengths=lengths, deterministic=deterministic)[1]
        pooled = self.pool(hidden, lengths)
        if self.pool_embedding:
            rows = inputs.rows() if isinstance(inputs, TokenInputs) else inputs
            pooled = jnp.concatenate([pooled, mean(rows, lengths), maximum(rows, lengths)], axis=-1)
        if self.dropout and not deterministic:
            pooled = drop(pooled, self.make_rng("dropout"), self.dropout)
        if self.dense_size:
            kernel, bias = (x.astype(self.dtype) for x in (self.dense_kernel, self.dense_bias))
            pooled = nn.relu(jnp.matmul(pooled, kernel) + bias)
        kernel = self.output_kernel.astype(self.dtype)
        scores = jnp.matmul(pooled, kernel, preferred_element_type=jnp.float32) + self.output_bias
        if self.ngrams:
            tables = self.ngram_kernel, self.ngram_log_odds
            scores += ngram_scores(*tables, tokens, lengths, self.ngrams)
        if self.num_outputs == self.num_classes:
            return scores
        return jnp.concatenate([jnp.zeros_like(scores), scores], axis=-1)


def classifier_loss(
    model: TextClassifier,
    params: PyTree,
    carry: PyTree,
    batch: Any,
    key: Array | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: Float[Array, "C"] | None = None,
    adversarial: Adversarial = "none",
    adversarial_norm: float = 5.0,
    adversarial_weight: float = 1.0,
) -> tuple[Float[Array, ""], LossAux]:
    """Cross-entropy of the labels: of the softmax, or of a sigmoid each with `multi_label`.

    Args:
        model: the module.
        params: its parameters.
        carry: passed through: a classifier has no memory between batches.
        batch: `tokens` Int[B, T]; `lengths` Int[B]; `labels` Int[B], or with `multi_label`
            Float[B, C] of 0 and 1; `weights` Float[B], 0 for a row that only fills the batch.
        key: random key of dropout and of adversarial training; None switches both off.
        label_smoothing: the share of the target that is spread over all labels evenly.
        class_weights: a weight of each class; the loss is the mean weighted by them,
            sum(w nll) / sum(w). With `multi_label` they weigh the labels of every row.
        adversarial: a second loss, at a small change of the embedded tokens. "virtual": how far the
            prediction moves, KL(before || after), with no gradient through the one before; "plain":
            the first loss, at the change.
        adversarial_norm: L2 norm of the change of a whole row's tokens, in standard deviations of
            the embedding.
        adversarial_weight: times the second loss of each row, added to the first.

    Returns:
        The scalar to differentiate, in nats an example (with `multi_label`, an example and label),
        and beside it the sums "nll" (neither smoothed nor weighted), "accuracy" (with
        `multi_label` of rows all of whose labels are right) and "confusion", counts [true,
        predicted] of shape [C, C] (with `multi_label` [C, 2, 2]). The weight is the sum of all
        w, by which the gradient is averaged over batches and devices to what it is over all rows.

    Raises:
        UserError: adversarial training of a model without an embedding.

    Source: Miyato, Dai & Goodfellow (2017) for adversarial training.
    """
    changing = adversarial != "none" and key is not None
    if changing and not model.embedding_size:
        raise UserError(
            "adversarial training changes embedded tokens, and `embedding_size` is 0; "
            "set it, or set `adversarial` to none"
        )
    keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
    tokens = batch.tokens.T
    inputs = _apply(model, params, keys[0], TextClassifier.inputs, tokens, key is None)
    if changing and isinstance(inputs, TokenInputs):
        inputs = inputs.rows()

    def logits_of(params: PyTree, inputs: Any) -> Array:  # with the same dropout at every call
        args = inputs, tokens, batch.lengths, key is None
        return _apply(model, params, keys[1], TextClassifier.logits, *args)

    logits = logits_of(params, inputs)
    nll_of = partial(_sigmoid_nll if model.multi_label else _softmax_nll, labels=batch.labels)
    rows, row_weights = nll_of(logits, smoothing=label_smoothing, class_weights=class_weights)
    if changing:
        divergence = sigmoid_divergence if model.multi_label else softmax_divergence
        virtual = partial(divergence, jax.lax.stop_gradient(logits))
        plain = lambda logits: nll_of(  # noqa: E731
            logits, smoothing=label_smoothing, class_weights=class_weights
        )[0]
        rows_of = virtual if adversarial == "virtual" else plain
        fixed = jax.lax.stop_gradient(params)
        rows += adversarial_weight * adversarial_loss(
            lambda inputs: rows_of(logits_of(params, inputs)),
            lambda inputs: rows_of(logits_of(fixed, inputs)),
            inputs,
            real_steps(len(inputs), batch.lengths) & (batch.weights > 0),
            adversarial_norm,
            keys[2] if adversarial == "virtual" else None,
        )
    row_weights = row_weights * batch.weights
    total = row_weights.sum()
    loss = _weighted_sum(rows, row_weights) / jnp.where(total > 0, total, 1)
    return loss, LossAux(carry, _sums(model, nll_of(logits)[0], logits, batch), total)


def _sums(
    model: TextClassifier, nll: Float[Array, "B"], logits: Float[Array, "B C"], batch: Any
) -> dict[str, Sum]:
    """What the figures are made of."""
    hits, confusion = _predicted(logits, batch.labels, batch.weights, model.multi_label)
    count = batch.weights.sum()
    return {
        "nll": Sum(_weighted_sum(nll, batch.weights), count),
        "accuracy": Sum(_weighted_sum(hits, batch.weights), count),
        "confusion": Sum(confusion, count),
    }


def _apply(
    model: TextClassifier, params: PyTree, key: Array | None, method: Any, *args: Any
) -> Any:
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, *args, method=method, rngs=rngs)


def _weighted_sum(values: Float[Array, "B"], weights: Float[Array, "B"]) -> Float[Array, ""]:
    return jnp.where(weights > 0, values * weights, 0).sum()


def _softmax_nll(
    logits: Float[Array, "B C"],
    labels: Int[Array, "B"],
    smoothing: float = 0.0,
    class_weights: Float[Array, "C"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Cross-entropy of each row with its smoothed target, and the weight of its class."""
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    if smoothing:
        nll = (1 - smoothing) * nll - smoothing * log_p.mean(axis=-1)
    return nll, jnp.ones_like(nll) if class_weights is None else class_weights[labels]


def _sigmoid_nll(
    logits: Float[Array, "B C"],
    labels: Float[Array, "B C"],
    smoothing: float = 0.0,
    class_weights: Float[Array, "C"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Mean binary cross-entropy of the labels of each row, and the weight 1."""
    targets = labels * (1 - smoothing) + smoothing / 2
    nll = jax.nn.softplus(logits) - targets * logits
    shares = jnp.ones(nll.shape[-1:]) if class_weights is None else class_weights
    return (nll * (shares / shares.sum())).sum(axis=-1), jnp.ones(nll.shape[:1])


def _predicted(
    logits: Float[Array, "B C"],
    labels: Int[Array, "B"] | Float[Array, "B C"],
    weights: Float[Array, "B"],
    multi_label: bool,
) -> tuple[Float[Array, "B"], Float[Array, "..."]]:
    """1 for each row that is right, and the counts of [true, predicted]."""
    one_hot = partial(jax.nn.one_hot, dtype=jnp.float32)
    if multi_label:
        pairs = jnp.stack([labels, (logits > 0).astype(jnp.float32)])
        true, found = jnp.stack([1 - pairs, pairs], axis=-1)
        confusion = jnp.einsum("b,bci,bcj->cij", weights, true, found)
        return (pairs[0] == pairs[1]).all(axis=-1).astype(jnp.float32), confusion
    predicted = logits.argmax(axis=-1)
    classes = logits.shape[-1]
    true = one_hot(labels, classes) * weights[:, None]
    hits = (predicted == labels).astype(jnp.float32)
    return hits, true.T @ one_hot(predicted, classes)


def language_model_part(params: PyTree) -> PyTree:
    """What a classifier takes over from a language model: its embedding and its layers.

    Args:
        params: of a `LanguageModel`.

    Returns:
        The part of a `TextClassifier`'s parameters that reads forward, under the same names.
    """
    return {name: params[name] for name in ("embedding", "lstm") if name in params}


def depths_of(params: PyTree) -> PyTree:
    """How many layers lie above each parameter, for fine-tuning layer by layer.

    Args:
        params: of a `TextClassifier`.

    Returns:
        A tree like it of integers: 0 for all that follows the LSTM, then one more for each layer
        from the last to the first, and the most for the embedding.
    """
    layers = {name: int(name.split("_")[1]) for name in params["lstm"]}
    last = max(layers.values())

    def depth(path: tuple[Any, ...], _: Any) -> int:
        names = [key.key for key in path]
        if names[0] == "embedding":
            return last + 2
        return last + 1 - layers[names[1]] if names[0] == "lstm" else 0

    return jax.tree_util.tree_map_with_path(depth, params)
