"""The cache over a whole text against a list of pairs in NumPy, token by token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.streams import TokenArray, evaluation_batches
from jaxgen.evaluation.cache import cache_nll
from jaxgen.evaluation.sums import make_sums
from jaxgen.models.language_model import LanguageModel, language_model_loss
from jaxgen.models.token_nll import token_nll

ROWS, LENGTH, RESET = 4, 5, 2
MODEL = LanguageModel(vocab_size=6, hidden_size=4)
PARAMS = jax.tree.map(
    lambda x: 3 * x, jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
)
READ = jax.jit(partial(token_nll, MODEL))
THETAS, LAMBDAS = (0.0, 0.7, 3.0), (0.0, 0.3, 0.6)


def reference(batches, window):
    """Nats of a text [thetas, lambdas] from its hidden states in its order; and by the model."""
    rows = [[] for _ in range(ROWS)]
    carry = MODEL.initial_carry(ROWS)
    for batch in batches:
        carry, nll, hidden = READ(PARAMS, carry, batch)
        for row, mask in enumerate(batch["mask"]):
            tokens = batch["tokens"][row]
            for place in np.flatnonzero(mask):
                parts = hidden[row, place], float(nll[row, place])
                rows[row].append((*parts, tokens[place], tokens[place + 1]))
    text = [token for row in rows for token in row]
    totals, pairs, before = np.zeros((len(THETAS), len(LAMBDAS))), [], None
    for hidden, nll, token, target in text:
        if before is not None:
            pairs = [*pairs, (before, token)][-window:]
        before = np.asarray(hidden, np.float64)
        for i, theta in enumerate(THETAS):
            weights = np.exp(theta * np.array([before @ state for state, _ in pairs]))
            hits = np.array([follower == target for _, follower in pairs])
            for j, lambda_ in enumerate(LAMBDAS):
                p = np.exp(-nll)
                if pairs:
                    p = (1 - lambda_) * p + lambda_ * weights[hits].sum() / weights.sum()
                totals[i, j] -= np.log(p)
    return totals, sum(nll for _, nll, *_ in text), len(text)


@pytest.mark.parametrize(
    ("tokens", "window", "reset_id"),
    [(61, 3, None), (61, 9, None), (61, 100, RESET), (7, 4, None), (3, 4, None)],
    ids=["within rows", "over a row", "over all, with documents", "few tokens", "empty rows"],
)
def test_each_token_sees_the_last_pairs_of_the_text(tokens, window, reset_id):
    ids = np.random.default_rng(1).integers(6, size=tokens).astype(np.int32)
    cut = partial(evaluation_batches, TokenArray(ids), ROWS, LENGTH, reset_id=reset_id)
    read = partial(token_nll, MODEL)
    carry = MODEL.initial_carry(ROWS)
    found = cache_nll(read, PARAMS, carry, cut, window, THETAS, LAMBDAS)
    totals, plain, count = reference(cut(), window)
    np.testing.assert_allclose(found.totals, totals, rtol=1e-5, atol=1e-5)
    assert found.plain.count == count == tokens - 1
    assert found.plain.total == pytest.approx(plain, rel=1e-5)
    sums = make_sums(partial(language_model_loss, MODEL))(PARAMS, carry, cut())
    assert found.plain.total == pytest.approx(float(sums["nll"].total), rel=1e-6)
    theta, lambda_ = found.best
    best = found.at(theta, lambda_)
    assert best.total == found.totals.min()
    assert best.total <= found.plain.total * (1 + 1e-6)  # a lambda of 0 is among them
