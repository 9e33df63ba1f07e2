"""Dynamic evaluation against a plain loop: another LSTM, stretch after stretch, NumPy's updates."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.streams import TokenArray, evaluation_batches
from jaxgen.errors import UserError
from jaxgen.evaluation.dynamic import descent, make_dynamic_nll, rms_rule
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.tasks.adapted import best_rate

LENGTH, VOCAB, HIDDEN = 4, 5, 3
MODEL = LanguageModel(vocab_size=VOCAB, hidden_size=HIDDEN)
PARAMS = jax.tree.map(
    lambda x: 2 * x, jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
)
LOSS = partial(language_model_loss, MODEL)
TEXT = np.tile([0, 1, 2, 3, 4, 3], 4)[:22].astype(np.int32)  # the last stretch is shorter


def batches(ids=TEXT, rows=1):
    return evaluation_batches(TokenArray(ids), rows, LENGTH)


def plain_nll(params, carry, ids):
    """Nats of the tokens after the first, summed, and the state; steps written out one by one."""
    layer, nll, (c, h) = params["lstm"]["layer_0"], 0.0, carry
    for token, target in pairwise(ids):
        gates = layer["input_kernel"][token] + h @ layer["recurrent_kernel"] + layer["bias"]
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        logits = h @ params["output_kernel"] + params["output_bias"]
        nll += jax.nn.logsumexp(logits) - logits[target]
    return nll, (c, h)


def stretches(ids):
    return [ids[first : first + LENGTH + 1] for first in range(0, len(ids) - 1, LENGTH)]


def mean_and_state(params, carry, ids):
    nll, carry = plain_nll(params, carry, ids)
    return nll / (len(ids) - 1), carry


GRADIENT = jax.jit(jax.value_and_grad(mean_and_state, has_aux=True))


def reference(rate, scale=None, pull=None):
    params, carry = PARAMS, (jnp.zeros(HIDDEN), jnp.zeros(HIDDEN))
    costs = []
    for ids in stretches(TEXT):
        (mean, carry), gradient = GRADIENT(params, carry, ids)
        costs.append(float(mean) * (len(ids) - 1))
        ones, zeros = (jax.tree.map(make, PARAMS) for make in (np.ones_like, np.zeros_like))
        trees = (params, gradient, PARAMS, scale or ones, pull or zeros)
        params = jax.tree.map(
            lambda x, g, first, s, p: np.asarray(x) - rate * s * np.asarray(g) + p * (first - x),
            *trees,
        )
    return sum(costs)


@pytest.mark.parametrize("rate", [0.05, 0.7])
def test_descent_follows_the_text(rate):
    found = make_dynamic_nll(LOSS)(PARAMS, MODEL.initial_carry(1), batches(), rate, descent(PARAMS))
    assert found.count == len(TEXT) - 1
    assert found.total == pytest.approx(reference(rate), rel=1e-5)
    still, _ = plain_nll(PARAMS, (jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)), TEXT)
    assert found.total < float(still)  # the text repeats itself
    assert np.isfinite(jax.tree.leaves(PARAMS)[0]).all()  # nobody took the caller's parameters


@pytest.mark.parametrize("decay", [0.01, pytest.param(0.8, marks=pytest.mark.slow)])
def test_statistics_of_training_text_scale_steps_and_draw_parameters_back(decay):
    train = np.random.default_rng(0).integers(VOCAB, size=13).astype(np.int32)
    rule = rms_rule(LOSS, PARAMS, MODEL.initial_carry(1), batches(train), decay=decay)
    carry, squares = (jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)), []
    for ids in stretches(train):
        (_, carry), gradient = GRADIENT(PARAMS, carry, ids)
        squares.append(jax.tree.map(lambda g: np.asarray(g) ** 2, gradient))
    rms = jax.tree.map(lambda *g: np.sqrt(np.mean(g, axis=0)), *squares)
    mean = np.mean([leaf.mean() for leaf in jax.tree.leaves(rms)])
    scale = jax.tree.map(lambda r: 1 / (r + 2e-5), rms)
    pull = jax.tree.map(lambda r: np.minimum(decay * r / mean, 1), rms)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), rule.scale, scale)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), rule.pull, pull)
    found = make_dynamic_nll(LOSS)(PARAMS, MODEL.initial_carry(1), batches(), 3e-3, rule)
    assert found.total == pytest.approx(reference(3e-3, scale, pull), rel=1e-4)


def test_statistics_are_of_so_many_batches_at_most():
    some, few = (
        rms_rule(LOSS, PARAMS, MODEL.initial_carry(1), batches(ids), decay=0.1, most=2)
        for ids in (TEXT, TEXT[: 2 * LENGTH + 1])
    )
    jax.tree.map(np.testing.assert_array_equal, some, few)


def test_the_rate_is_sought_upwards_until_the_cost_rises():
    tried = []

    def cost(rate):
        tried.append(rate)
        return abs(rate - 0.15)

    assert best_rate(cost, (0.01, 0.1, 0.3, 1.0, 3.0)) == 0.1
    assert tried == [0.01, 0.1, 0.3]
    assert best_rate(lambda rate: 1.0 if rate < 0.05 else np.nan, (0.01, 0.1)) == 0.01
    with pytest.raises(UserError, match="dynamic evaluation diverges at every rate"):
        best_rate(lambda rate: np.nan, (0.01, 0.1))
