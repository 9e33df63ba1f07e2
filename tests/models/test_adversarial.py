"""Adversarial training: the change by hand and by numerical differentiation, and its gradient."""

from collections import namedtuple
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.models.adversarial import (
    adversarial_loss,
    deviation,
    perturbation,
    scaled_rows,
    sigmoid_divergence,
    softmax_divergence,
)
from jaxgen.models.classifier import TextClassifier, classifier_loss
from jaxgen.nn.inputs import real_steps

Batch = namedtuple("Batch", "tokens lengths labels weights")

T, B, E, V, H = 5, 6, 3, 9, 4
LENGTHS = jnp.asarray([5, 2, 3, 1, 4, 0], jnp.int32)
REAL = real_steps(T, LENGTHS)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def row_norms(values):
    return np.sqrt(np.square(np.asarray(values, np.float64)).sum(axis=(0, 2)))


def test_rows_are_scaled_over_their_real_tokens():
    values = normal(0, T, B, E).at[:, 3].set(1e-30)  # squared it vanishes
    scaled = scaled_rows(values, REAL, 2.5)
    np.testing.assert_allclose(row_norms(scaled), [2.5] * 5 + [0], rtol=1e-6)
    assert not np.asarray(scaled)[~np.asarray(REAL)].any()
    share = np.asarray(scaled / values)[:2, 1]
    np.testing.assert_allclose(share, share[0, 0], rtol=1e-5)  # the direction stays


def test_the_deviation_is_that_of_the_real_tokens():
    embedded = normal(1, T, B, E) * jnp.asarray([1.0, 10.0, 0.0]) + 3.0
    expected = np.asarray(embedded)[np.asarray(REAL)].std(axis=0)
    np.testing.assert_allclose(deviation(embedded, REAL), expected, rtol=1e-5, atol=1e-6)


def test_the_change_of_a_linear_loss_by_hand():
    """Its gradient is its weights: (3, 4) and (0, 12) have the norm 13; the third is padding."""
    weights = jnp.asarray([[[3.0, 4.0]], [[0.0, 12.0]], [[7.0, 7.0]]])
    real = jnp.asarray([[True], [True], [False]])
    change = perturbation(
        lambda x: (weights * x).sum(axis=(0, 2)), jnp.zeros_like(weights), real, 26.0
    )
    np.testing.assert_allclose(change[:, 0], [[6.0, 8.0], [0.0, 24.0], [0.0, 0.0]], rtol=1e-6)
    # In units of a deviation of 2 and 0.5 the loss has the gradient (6, 2), (0, 6) by the change.
    embedded = jnp.asarray([[[2.0, 0.5]], [[-2.0, -0.5]], [[9.0, 9.0]]])
    rows_of = lambda x: (weights * x).sum(axis=(0, 2))  # noqa: E731
    loss = adversarial_loss(rows_of, rows_of, embedded, real, 1.0, None)
    np.testing.assert_allclose(loss - rows_of(embedded), [np.sqrt(36 + 4 + 36)], rtol=1e-6)


def test_divergences_equal_their_definition():
    p, q = normal(0, 4, 3), normal(1, 4, 3)
    a, b = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in map(np.asarray, (p, q)))
    np.testing.assert_allclose(softmax_divergence(p, q), (a * np.log(a / b)).sum(-1), rtol=1e-4)
    a, b = (1 / (1 + np.exp(-x)) for x in map(np.asarray, (p, q)))
    expected = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    np.testing.assert_allclose(sigmoid_divergence(p, q), expected.mean(-1), rtol=1e-4)
    assert not np.asarray(softmax_divergence(p, p)).any()


def logits_at(model, params, embedded, tokens):
    args = embedded, tokens.T, LENGTHS
    return model.apply({"params": params}, *args, method=TextClassifier.logits)


@cache
def classifier(classes=2, **options):
    """A model whose weights are large enough to be moved, and its logits of embedded tokens."""
    options |= {"embedding_size": E, "pooling": ("mean",), "ngrams": 2, "ngram_buckets": 7}
    model = TextClassifier(V, classes, H, **options)
    tokens = jnp.zeros((B, T), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, LENGTHS)["params"]
    params = jax.tree.map(
        lambda p: 2 * p + 0.3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params
    )

    def logits_of(embedded):
        return logits_at(model, params, embedded, batch().tokens)

    return model, params, logits_of


def virtual_change(logits_of, embedded, norm, key):
    start = scaled_rows(jax.random.normal(key, embedded.shape), REAL, 0.01)
    return perturbation(partial(moved, logits_of, embedded), start, REAL, norm)


def moved(logits_of, embedded, change):
    return softmax_divergence(logits_of(embedded), logits_of(embedded + change))


@pytest.mark.slow
def test_the_virtual_change_is_the_first_eigenvector_of_the_hessian():
    """Of two classes the Hessian has rank 1, so one iteration finds it; here by differences.

    KL(p || p(x + r)) = r' H r / 2, where H = p (1 - p) g g' and g the gradient of the output z.
    """
    _, _, logits_of = classifier()
    embedded = normal(2, T, B, E)
    find = jax.jit(partial(virtual_change, logits_of, norm=1.0, key=jax.random.key(1)))
    change = find(embedded)
    run = jax.jit(jax.vmap(logits_of))
    steps = 0.02 * jnp.eye(T * E).reshape(T * E, T, 1, E)  # rows do not touch one another
    differences = (run(embedded + steps) - run(embedded - steps))[..., 1] / 0.04
    gradient = np.asarray(differences).reshape(T, E, B).transpose(0, 2, 1)
    assert not gradient[~np.asarray(REAL)].any()
    cosines = (gradient * np.asarray(change)).sum(axis=(0, 2))[:5] / row_norms(gradient)[:5]
    np.testing.assert_allclose(np.abs(cosines), 1, atol=2e-3)
    np.testing.assert_allclose(row_norms(change), [1] * 5 + [0], rtol=1e-5)


@pytest.mark.slow
def test_the_virtual_change_moves_the_prediction_more_than_random_ones():
    """In every row, against the mean of 200 random changes of the same norm.

    Were the change random too, a row would be above that mean about every third time, and all
    five, above twice that mean, less than once in a hundred.
    """
    _, _, logits_of = classifier(3)
    embedded = normal(3, T, B, E)

    @jax.jit
    def divergences(embedded, keys):
        change = virtual_change(logits_of, embedded, 0.5, keys[0])
        rows_of = partial(moved, logits_of, embedded)
        draw = lambda key: scaled_rows(jax.random.normal(key, change.shape), REAL, 0.5)  # noqa: E731
        return rows_of(change), jax.vmap(lambda key: rows_of(draw(key)))(keys)

    worst, random = divergences(embedded, jax.random.split(jax.random.key(4), 200))
    assert (worst[:5] > 2 * random.mean(axis=0)[:5]).all()
    assert worst[5] == 0  # a row of no tokens


def batch():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
    labels = jnp.asarray([0, 1, 1, 0, 1, 0], jnp.int32)
    return Batch(tokens, LENGTHS, labels, jnp.asarray([1.0, 1, 1, 1, 0, 1]))


@pytest.mark.parametrize("kind", ["virtual", pytest.param("plain", marks=pytest.mark.slow)])
def test_the_loss_and_its_gradient_take_the_change_as_given(kind):
    """The change is put in as numbers, so nothing can flow through it; nor through KL's first."""
    model, params, logits_of = classifier()
    rows, key = batch(), jax.random.key(7)
    loss_fn = partial(classifier_loss, model, carry=(), batch=rows, key=key, adversarial=kind)
    options = {"adversarial_norm": 0.7, "adversarial_weight": 3.0}
    ours, gradient = jax.jit(
        jax.value_and_grad(lambda p: loss_fn(params=p, **options)[0])
    )(params)  # fmt: skip
    real = REAL & (rows.weights > 0)
    embedded = params["embedding"][rows.tokens.T]
    unit, clean = deviation(embedded, real), logits_of(embedded)

    def second(logits):
        log_p = jax.nn.log_softmax(logits)
        plain = -log_p[jnp.arange(B), rows.labels]
        return softmax_divergence(clean, logits) if kind == "virtual" else plain

    start = jnp.zeros_like(embedded)
    if kind == "virtual":
        noise = jax.random.normal(jax.random.split(key, 3)[2], embedded.shape)
        start = scaled_rows(noise, real, 0.1)
    change = jax.jit(
        lambda start: perturbation(
            lambda r: second(logits_of(embedded + unit * r)), start, real, 0.7
        )
    )(start)
    moved = jnp.asarray(np.asarray(unit * change))

    def expected(params):
        plain = classifier_loss(model, params, (), rows)[0]
        embedded = params["embedding"][rows.tokens.T] + moved
        logits = logits_at(model, params, embedded, rows.tokens)
        return plain + 3.0 * (second(logits) * rows.weights).sum() / rows.weights.sum()

    value, expected_gradient = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    check = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(check, gradient, expected_gradient)


def test_a_larger_embedding_is_no_shelter():
    """What the normalisation is for: the same model, its embedding and kernel written otherwise."""
    model, params, _ = classifier()
    layer = params["lstm"]["layer_0"]
    other = {
        **params,
        "embedding": 8.0 * params["embedding"],
        "lstm": {"layer_0": {**layer, "input_kernel": layer["input_kernel"] / 8.0}},
    }
    loss = jax.jit(partial(classifier_loss, model, adversarial="virtual", adversarial_norm=2.0))
    ours, theirs = (
        loss(params=p, carry=(), batch=batch(), key=jax.random.key(0))[0] for p in (params, other)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_without_a_key_there_is_none_and_without_an_embedding_it_is_refused():
    model, params, _ = classifier()
    plain = classifier_loss(model, params, (), batch())[0]
    assert classifier_loss(model, params, (), batch(), adversarial="virtual")[0] == plain
    with pytest.raises(
        UserError, match=r"`embedding_size` is 0; set it, or set `adversarial` to none"
    ):
        classifier_loss(
            TextClassifier(V, 2, H), {}, (), batch(), jax.random.key(0), adversarial="virtual"
        )
