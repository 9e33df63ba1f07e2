"""The classifier: padding, Flax and PyTorch as references, its loss by hand, its joints."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.models.classifier import (
    TextClassifier,
    classifier_loss,
    depths_of,
    language_model_part,
)
from jaxgen.models.language_model import LanguageModel
from jaxgen.nn.pooling import POOLINGS
from jaxgen.nn.torch_weights import from_torch, to_torch
from jaxgen.training.step import init_state, make_train_step

V, C, B, T, H = 11, 3, 4, 6, 4
LENGTHS = (6, 2, 2, 0)
VARIANTS = {
    "one way": {"pooling": POOLINGS, "embedding_size": 5, "ngrams": 2, "ngram_buckets": 7},
    "both ways": {
        "pooling": POOLINGS,
        "bidirectional": True,
        "num_layers": 2,
        "residual": True,
        "dense_size": 6,
    },
}


class Batch(NamedTuple):
    tokens: Any
    lengths: Any
    labels: Any
    weights: Any


def batch_of(labels=(0, 2, 1, 1), weights=(1, 1, 1, 0), lengths=LENGTHS, seed=0):
    tokens = np.random.default_rng(seed).integers(0, V, (B, T))
    return Batch(
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray(labels, jnp.float32 if np.ndim(labels) == 2 else jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


@cache
def made(classes=C, **options):
    model = TextClassifier(V, classes, H, **options)
    batch = batch_of()
    params = jax.jit(model.init)(jax.random.key(0), batch.tokens, batch.lengths)["params"]
    # Biases that differ, so that a test would see one added twice or not at all.
    params = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), params)
    return model, params


@partial(jax.jit, static_argnums=0)
def logits_and_gradient(model, params, tokens, lengths):
    """Logits, and the gradient of their sum weighted by the cosine of the column."""

    def total(params):
        logits = model.apply({"params": params}, tokens, lengths)
        return (logits * jnp.cos(jnp.arange(C, dtype=jnp.float32))).sum(), logits

    gradient, logits = jax.grad(total, has_aux=True)(params)
    return logits, gradient


@pytest.mark.parametrize("name", ["one way", pytest.param("both ways", marks=pytest.mark.slow)])
def test_a_padded_batch_equals_each_row_alone(name):
    model, params = made(**VARIANTS[name])
    batch = batch_of(lengths=(6, 2, 2, 2))
    logits, gradient = logits_and_gradient(model, params, batch.tokens, batch.lengths)
    alone = [
        logits_and_gradient(model, params, batch.tokens[row:end, :n], batch.lengths[row:end])
        for row, end, n in ((0, 1, 6), (1, 4, 2))  # the second call has no padding either
    ]
    expected = jnp.concatenate([logits for logits, _ in alone])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    total = jax.tree.map(jnp.add, alone[0][1], alone[1][1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradient, total)


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, T), min_size=B, max_size=B), st.integers(0, 9))
def test_what_stands_beyond_the_lengths_changes_nothing(lengths, seed):
    model, params = made(**VARIANTS["both ways"])
    batch = batch_of(lengths=lengths)
    other = batch_of(seed=seed + 1).tokens
    padded = jnp.where(jnp.arange(T) < batch.lengths[:, None], batch.tokens, other)
    ours = logits_and_gradient(model, params, batch.tokens, batch.lengths)
    theirs = logits_and_gradient(model, params, padded, batch.lengths)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


def test_full_rows_end_in_the_last_state_of_flax():
    model, params = made(embedding_size=5)
    layer, names = params["lstm"]["layer_0"], {}
    for position, gate in enumerate("ifgo"):
        columns = slice(position * H, (position + 1) * H)
        names[f"i{gate}"] = {"kernel": layer["input_kernel"][:, columns]}
        names[f"h{gate}"] = {
            "kernel": layer["recurrent_kernel"][:, columns],
            "bias": layer["bias"][columns],
        }
    batch = batch_of(lengths=(6, 6, 6, 6))
    outputs = jax.jit(nn.RNN(nn.OptimizedLSTMCell(H)).apply)(
        {"params": {"cell": names}}, params["embedding"][batch.tokens]
    )
    expected = outputs[:, -1] @ params["output_kernel"] + params["output_bias"]
    logits = logits_and_gradient(model, params, batch.tokens, batch.lengths)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def torch_loss(torch, params, batch, options):
    """The same model and loss of packed sequences in PyTorch; gradients by our names."""
    lstm = torch.nn.LSTM(V, H, 2, bidirectional=True)
    state = to_torch(params["lstm"])
    lstm.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    leaf = lambda x: torch.from_numpy(np.array(x)).requires_grad_()  # noqa: E731
    rest = jax.tree.map(leaf, {name: x for name, x in params.items() if name != "lstm"})
    inputs = torch.nn.functional.one_hot(torch.from_numpy(np.array(batch.tokens.T)).long(), V)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        inputs.float(), torch.tensor(batch.lengths.tolist()), enforce_sorted=False
    )
    hidden, _ = torch.nn.utils.rnn.pad_packed_sequence(lstm(packed)[0])
    vectors = []
    for row, length in enumerate(batch.lengths.tolist()):
        h = hidden[:length, row]
        pooling = rest["pooling"]
        scores = torch.tanh(h @ pooling["attention_kernel"]) @ pooling["attention_vector"]
        attended = torch.softmax(scores, 0) @ h
        ends = torch.cat([h[-1, :H], h[0, H:]])
        vectors.append(torch.cat([ends, h.mean(0), h.amax(0), attended]))
    pooled = torch.relu(torch.stack(vectors) @ rest["dense_kernel"] + rest["dense_bias"])
    logits = pooled @ rest["output_kernel"] + rest["output_bias"]
    labels = torch.from_numpy(np.array(batch.labels))
    loss = (
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        if labels.ndim == 2
        else torch.nn.functional.cross_entropy(logits, labels.long(), **options)
    )
    loss.backward()
    layers = from_torch({name: x.grad.numpy() for name, x in lstm.named_parameters()})
    gradient = jax.tree.map(lambda x: x.grad.numpy(), rest)
    for layer in layers.values():
        layer["bias"] /= 2  # PyTorch's two biases have each the whole gradient
    return loss.item(), {**gradient, "lstm": layers}


@pytest.mark.peers("torch")
@pytest.mark.parametrize("kind", ["smoothed", "weighted", "multi_label"])
def test_loss_and_gradient_equal_pytorch_with_packed_sequences(kind):
    import torch

    options = {**VARIANTS["both ways"], "residual": False, "multi_label": kind == "multi_label"}
    model, params = made(**options)
    labels = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]] if kind == "multi_label" else (0, 2, 1, 1)
    batch = batch_of(labels, weights=(1, 1, 1, 1), lengths=(6, 2, 3, 1))
    weights = [0.5, 2.0, 1.0]
    ours, theirs = {
        "smoothed": ({"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
        "weighted": ({"class_weights": jnp.asarray(weights)}, {"weight": torch.tensor(weights)}),
        "multi_label": ({}, {}),
    }[kind]
    loss_fn = lambda params: classifier_loss(model, params, (), batch, **ours)  # noqa: E731
    (loss, _), gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    expected, expected_gradient = torch_loss(torch, params, batch, theirs)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(check, dict(gradient), expected_gradient)


@cache
def constant(bias, **options):
    """A classifier whose logits are those, whatever it reads."""
    classes = max(len(bias), 2)
    model, params = made(classes, **options)
    kernel = jnp.zeros_like(params["output_kernel"])
    return model, {**params, "output_kernel": kernel, "output_bias": jnp.asarray(bias)}


def log(*probabilities):
    return tuple(float(x) for x in np.log(probabilities))


def losses(model, params, batch, **options):
    """The loss with each of some options, compiled as one program."""

    @jax.jit
    def every(params):
        return {
            name: classifier_loss(model, params, jnp.float32(7), batch, **some)
            for name, some in options.items()
        }

    return every(params)


def test_the_loss_by_hand():
    """Of p = (0.5, 0.3, 0.2); the last row only fills the batch."""
    model, params = constant(log(0.5, 0.3, 0.2))
    batch = batch_of((0, 2, 2, 1), (1, 1, 1, 0))
    first, last = -np.log(0.5), -np.log(0.2)
    options = {"plain": {}, "weighted": {"class_weights": jnp.asarray([4.0, 9.0, 0.5])}}
    found = losses(model, params, batch, **options, smoothed={"label_smoothing": 0.3})
    loss, aux = found["plain"]
    np.testing.assert_allclose(loss, (first + 2 * last) / 3, rtol=1e-6)
    np.testing.assert_allclose(aux.sums["nll"].total, first + 2 * last, rtol=1e-6)
    np.testing.assert_array_equal(aux.sums["confusion"].total, [[1, 0, 0], [0, 0, 0], [2, 0, 0]])
    assert aux.carry == 7  # as it came
    assert aux.sums["accuracy"].total == 1
    assert {float(total.weight) for total in aux.sums.values()} == {3.0}
    assert aux.weight == 3

    weighted, aux = found["weighted"]
    np.testing.assert_allclose(weighted, (4 * first + 0.5 * last + 0.5 * last) / 5, rtol=1e-6)
    np.testing.assert_allclose(aux.sums["nll"].total, first + 2 * last, rtol=1e-6)
    assert aux.weight == 5

    smoothed, aux = found["smoothed"]
    even = -np.log([0.5, 0.3, 0.2]).mean()
    np.testing.assert_allclose(smoothed, 0.7 * (first + 2 * last) / 3 + 0.3 * even, rtol=1e-6)
    np.testing.assert_allclose(aux.sums["nll"].total, first + 2 * last, rtol=1e-6)


def test_several_labels_by_hand():
    """Sigmoids of log 3 and -log 3: 0.75 and 0.25, so the first label is predicted alone."""
    model, params = constant((np.log(3.0), -np.log(3.0)), multi_label=True)
    batch = batch_of([[1, 0], [1, 1], [0, 0], [0, 1]], (1, 1, 1, 0))
    right, wrong = -np.log(0.75), -np.log(0.25)
    rows = [right, (right + wrong) / 2, (wrong + right) / 2]
    options = {"plain": {}, "first": {"class_weights": jnp.asarray([2.0, 0.0])}}
    found = losses(model, params, batch, **options, smoothed={"label_smoothing": 0.2})
    loss, aux = found["plain"]
    np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-6)
    np.testing.assert_allclose(aux.sums["nll"].total, np.sum(rows), rtol=1e-6)
    assert aux.sums["accuracy"].total == 1
    expected = [[[0, 1], [0, 2]], [[2, 0], [1, 0]]]
    np.testing.assert_array_equal(aux.sums["confusion"].total, expected)
    np.testing.assert_allclose(found["first"][0], (right + right + wrong) / 3, rtol=1e-6)
    mixed = 0.9 * np.mean(rows) + 0.1 * (2 * (right + wrong) - 2 * np.mean(rows)) / 2
    np.testing.assert_allclose(found["smoothed"][0], mixed, rtol=1e-6)


def test_two_classes_have_one_output():
    model, params = constant((np.log(3.0),))
    assert params["output_kernel"].shape == (H, 1)
    batch = batch_of((1, 0, 1, 0), (1, 1, 1, 0))
    logits = logits_of(model, params, batch)
    np.testing.assert_allclose(jax.nn.softmax(logits), np.tile([0.25, 0.75], (B, 1)), rtol=1e-6)
    loss = losses(model, params, batch, plain={})["plain"][0]
    np.testing.assert_allclose(loss, -(2 * np.log(0.75) + np.log(0.25)) / 3, rtol=1e-6)


@partial(jax.jit, static_argnums=0)
def logits_of(model, params, batch):
    return model.apply({"params": params}, batch.tokens, batch.lengths)


def test_a_batch_of_fillers_alone_is_no_loss():
    model, params = constant(log(0.5, 0.3, 0.2))
    loss, aux = losses(model, params, batch_of(weights=(0, 0, 0, 0)), plain={})["plain"]
    assert loss == aux.weight == aux.sums["nll"].total == 0


@pytest.mark.slow
def test_two_devices_make_the_update_of_one():
    """With classes and fillers spread unevenly over them."""
    model, params = made(embedding_size=5)
    weights = jnp.asarray([1.0, 5.0, 2.0])
    loss_fn = partial(classifier_loss, model, class_weights=weights)
    batch, tx = batch_of((0, 2, 1, 1), (1, 1, 1, 0)), optax.sgd(1.0)
    state = init_state(params, tx, jax.random.key(0))

    def alone(params, carry, batch, key):
        return loss_fn(params, carry, batch)  # no key: dropout would differ, were there any

    one, metrics = jax.jit(make_train_step(alone, tx))(state, batch)
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    divided = make_train_step(alone, tx, axis_name="data")
    both, shared = jax.jit(jax.vmap(divided, (None, 0), axis_name="data"))(state, halves)
    check = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: check(a, b[1]), one.params, both.params)
    jax.tree.map(lambda a, b: check(a, b[0]), metrics, shared)


@pytest.mark.slow
def test_seeds_side_by_side_equal_one_by_one():
    model, params = made(embedding_size=5, dropout=0.5, ngrams=2, ngram_buckets=7)
    loss_fn = partial(classifier_loss, model, adversarial="virtual", adversarial_norm=1.0)
    batch, keys = batch_of(), jax.random.split(jax.random.key(3), 2)
    two = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params)
    step = lambda params, key: jax.grad(loss_fn, has_aux=True)(params, (), batch, key)  # noqa: E731
    together, aux = jax.jit(jax.vmap(step))(two, keys)
    one = jax.jit(step)
    for index in range(2):
        alone = one(jax.tree.map(lambda p, i=index: p[i], two), keys[index])
        check = lambda a, b, i=index: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6)  # noqa: E731
        jax.tree.map(check, (together, aux), alone)


def test_every_dropout_acts_only_with_a_key():
    batch, key = batch_of(), jax.random.key(0)
    model, params = made(num_layers=2, embedding_size=5, ngrams=2, ngram_buckets=7)
    rates = ("dropout", "layer_dropout", "input_dropout", "embedding_dropout", "weight_drop")
    for rate in rates:
        loss = partial(classifier_loss, model.clone(**{rate: 0.5}), params, (), batch)
        drawn = str(jax.make_jaxpr(loss)(key))
        assert "random_bits" in drawn or "threefry" in drawn, rate
        assert "random" not in str(jax.make_jaxpr(loss)()), rate


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_begins_a_classifier(tied):
    """Its states are then the classifier's: seen through an output that changes nothing."""
    options = {"embedding_size": 5, "num_layers": 1 if tied else 2}
    language_model = LanguageModel(V, H, tied=tied, **options)
    batch = batch_of(lengths=(6, 6, 6, 6))
    theirs = jax.jit(language_model.init)(jax.random.key(5), batch.tokens)["params"]
    units = 5 if tied else H
    model, fresh = made(units, **options, last_size=5 if tied else 0)
    params = {**fresh, **language_model_part(theirs)}
    assert jax.tree.structure(params) == jax.tree.structure(dict(fresh))
    params |= {"output_kernel": jnp.eye(units), "output_bias": jnp.zeros(units)}
    carry, _ = jax.jit(language_model.apply)({"params": theirs}, batch.tokens)
    np.testing.assert_allclose(
        logits_of(model, params, batch), carry.layers[-1].h, rtol=1e-5, atol=1e-6
    )


def test_the_depth_of_each_parameter():
    model = TextClassifier(V, C, H, 2, 5, bidirectional=True, pooling=("attention",), ngrams=1)
    tokens, lengths = jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, lengths)["params"]
    depths = depths_of(params)
    assert set(jax.tree.leaves(depths["lstm"]["layer_1_reverse"])) == {1}
    assert set(jax.tree.leaves(depths["lstm"]["layer_0"])) == {2}
    assert depths["embedding"] == 3
    assert depths["output_kernel"] == depths["pooling"]["attention_vector"] == 0
    assert depths["ngram_kernel"] == 0
