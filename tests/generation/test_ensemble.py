"""Ensembles against NumPy, stacked and of different models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.toy_models import (
    log_softmax,
    lstm_carry,
    lstm_params,
    lstm_prefill,
    lstm_step,
    markov_step,
)

from jaxgen.errors import UserError
from jaxgen.generation.beam import beam_search
from jaxgen.generation.ensemble import ensemble, ensemble_carry, ensemble_of, ensemble_of_carry
from jaxgen.generation.generate import generate
from jaxgen.generation.guidance import Guidance, GuidedInitialCarry, guided
from jaxgen.generation.score import score
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel

V, M = 6, 3
MEMBERS = [lstm_params(jax.random.key(seed), V) for seed in range(M)]
STACKED = jax.tree.map(lambda *x: jnp.stack(x), *MEMBERS)
FAST = jax.jit(lstm_step)
TEXT = np.array([[1, 2, 3, 4, 5], [5, 0, 1, 1, 2]])
PROMPT = TEXT[:, :2]
WEIGHTS = {
    "product": np.array([[1.0, 2.0, -2.0], [0.5, 0.0, 0.25]]),
    "average": np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 3.0]]),
}


def initial(params, batch_size, condition):
    return lstm_carry(batch_size)


def member_logprobs(params, text):
    carry, rows = lstm_carry(1), []
    for token in text[:-1]:
        carry, logits = FAST(params, carry, np.array([token]))
        rows.append(log_softmax(logits[0]))
    return np.array(rows)


def reference(text, weights, mode):
    """Log-probabilities of the tokens after the first, model by model."""
    each = np.array([member_logprobs(params, text) for params in MEMBERS])
    weights = np.asarray(weights)[:, None, None]
    joined = (
        (weights * each).sum(0) if mode == "product" else np.log((weights * np.exp(each)).sum(0))
    )
    return log_softmax(joined)[np.arange(len(text) - 1), text[1:]]


def carry_of(mode, weights=None, rows=2):
    weights = WEIGHTS[mode][:rows] if weights is None else weights
    return ensemble_carry(initial, STACKED, rows, weights=weights, mode=mode)


@pytest.mark.parametrize("mode", ["product", "average"])
@pytest.mark.parametrize("read", [None, lstm_prefill])
def test_scores_are_those_of_the_formula(mode, read):
    prefill_fn = read and ensemble(read, mode)
    found = score(ensemble(lstm_step, mode), STACKED, carry_of(mode), TEXT, prefill_fn=prefill_fn)
    several = ensemble_of([lstm_step] * M, mode)
    carry = ensemble_of_carry([lstm_carry(2)] * M, 2, WEIGHTS[mode], mode)
    prefill_fn = read and ensemble_of([read] * M, mode)
    also = score(several, tuple(MEMBERS), carry, TEXT, prefill_fn=prefill_fn)
    for row, text in enumerate(TEXT):
        wanted = reference(text, WEIGHTS[mode][row], mode)
        np.testing.assert_allclose(found.logprobs[row], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(also.logprobs[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["product", "average"])
def test_one_model_with_all_the_weight_is_that_model(mode):
    carry = carry_of(mode, [0, 1, 0])
    options = {"max_new_tokens": 8, "key": 3}
    found = generate(ensemble(lstm_step, mode), STACKED, carry, PROMPT, None, **options)
    wanted = generate(lstm_step, MEMBERS[1], lstm_carry(2), PROMPT, None, **options)
    assert found.tokens.tolist() == wanted.tokens.tolist()
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["product", "average"])
def test_prepared_parameters_give_the_same_step(mode):
    """Loops take models apart on a CPU; the stacked parameters say the same."""
    run, carry, tokens = ensemble(lstm_step, mode), carry_of(mode), jnp.asarray(TEXT[:, 0])
    step = jax.jit(lambda params, carry: run(params, carry, tokens))
    stacked, apart = step(STACKED, carry), step(run.prepare(STACKED), carry)
    assert jax.tree.structure(stacked) == jax.tree.structure(apart)
    for one, other in zip(jax.tree.leaves(stacked), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_row_alone_is_the_same_row_in_a_batch():
    keys = jax.random.split(jax.random.key(0), 2)
    run, carry = ensemble(lstm_step), carry_of("product")
    whole = generate(run, STACKED, carry, PROMPT, None, keys, max_new_tokens=8)
    for row in range(2):
        one = slice(row, row + 1)
        alone = jax.tree.map(lambda x, one=one: x[one], carry)
        out = generate(run, STACKED, alone, PROMPT[one], None, keys[one], max_new_tokens=8)
        assert out.tokens[0].tolist() == whole.tokens[row].tolist()


@pytest.mark.slow
def test_beams_choose_by_all_models():
    carry = carry_of("average")
    run = ensemble(lstm_step, "average")
    out = beam_search(run, STACKED, carry, PROMPT[:, :1], num_beams=V * V, max_new_tokens=2)
    for row in range(2):
        scores = {
            pair: reference([PROMPT[row, 0], *pair], WEIGHTS["average"][row], "average").sum()
            for pair in np.ndindex(V, V)
        }
        ranked = sorted(scores, key=lambda pair: -scores[pair])
        assert [tuple(x) for x in out.tokens[row, :8].tolist()] == ranked[:8]


def test_scalars_that_rows_share_are_shared_by_models_too():
    tables = jax.random.normal(jax.random.key(0), (M, V, V))
    carry = ensemble_carry(lambda *_: jnp.int32(0), tables, 2)
    out = generate(ensemble(markov_step), tables, carry, PROMPT, None, 0, max_new_tokens=4)
    assert out.carry.carries.tolist() == 5
    wanted = generate(markov_step, tables.mean(0), jnp.int32(0), PROMPT, None, 0, max_new_tokens=4)
    assert out.tokens.tolist() == wanted.tokens.tolist()


def test_different_models_of_one_vocabulary_join():
    table = jax.random.normal(jax.random.key(0), (V, V))
    run = ensemble_of([lstm_step, markov_step])
    carry = ensemble_of_carry([lstm_carry(2), jnp.int32(0)], 2, [1, 0.5])
    found = score(run, (MEMBERS[0], table), carry, TEXT).logprobs
    for row, text in enumerate(TEXT):
        joined = member_logprobs(MEMBERS[0], text) + 0.5 * log_softmax(table)[text[:-1]]
        wanted = log_softmax(joined)[np.arange(4), text[1:]]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)


def test_changed_weights_do_not_retrace():
    traces = []

    def counted(params, carry, tokens):
        traces.append(1)
        return lstm_step(params, carry, tokens)

    counts = []
    for weights in ([1, 2, -1], [0.5, 0.25, 0.25], WEIGHTS["product"]):
        carry = carry_of("product", weights)
        generate(ensemble(counted), STACKED, carry, PROMPT, None, 0, max_new_tokens=3)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["guided ensemble", "ensemble of guided"])
def test_guidance_and_ensembles_compose_either_way(order):
    """Both are sums of log-probabilities, so that their order makes no difference."""
    model = LanguageModel(vocab_size=V, hidden_size=8, num_labels=3)
    init = jax.vmap(lambda key: model.init(key, jnp.asarray(TEXT))["params"])
    params = jax.jit(init)(jax.random.split(jax.random.key(0), 2))
    params["label_gates"] = 3 * jax.random.normal(jax.random.key(1), (2, 3, 32))
    run, first = step_fn_of(model), initial_carry_of(model)
    weights, strength = np.array([0.75, 0.5]), np.array([2.0, 0.5], np.float32)
    labels = jnp.array([[0], [1]], jnp.int32)
    guidance = Guidance(labels, jnp.int32(2), strength[:, None])

    def logprobs(member, labels):
        of = jax.tree.map(lambda x: x[member], params)
        labels = jnp.asarray(labels, jnp.int32)
        return log_softmax(
            jax.jit(model.apply)({"params": of}, jnp.asarray(TEXT), first(of, 2, labels))[1]
        )

    joined = 0.0
    for member in range(2):
        null = logprobs(member, [2, 2])
        change = strength[:, None, None] * (logprobs(member, [0, 1]) - null)
        joined = joined + weights[member] * (null + change)
    wanted = np.take_along_axis(log_softmax(joined)[:, :-1], TEXT[:, 1:, None], axis=2)[..., 0]

    if order == "ensemble of guided":
        joint = ensemble(guided(run))
        carry = ensemble_carry(GuidedInitialCarry(first), params, 2, guidance, weights)
    else:
        joint = guided(ensemble(run))

        def initial(params, batch_size, labels):
            return ensemble_carry(first, params, batch_size, labels, weights)

        carry = GuidedInitialCarry(initial)(params, 2, guidance)
    found = score(joint, params, carry, TEXT).logprobs
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1, 2]}, "one number for each of the 3 models"),
        ({"weights": [1, np.nan, 1]}, "must be finite, got nan"),
        ({"weights": [1, -1, 1], "mode": "average"}, "0 or more, got -1.0; the product takes"),
        ({"weights": [[1, 0, 0], [0, 0, 0]]}, "must not all be 0"),
        ({"mode": "vote"}, "`mode` must be one of product, average, got 'vote'"),
    ],
)
def test_bad_weights_are_named(options, message):
    with pytest.raises(UserError, match=message):
        ensemble_carry(initial, STACKED, 2, **options)


def test_models_that_do_not_fit_together_are_named():
    small = lstm_params(jax.random.key(9), V - 1)
    pair = ensemble_of([lstm_step, lstm_step])
    carry = ensemble_of_carry([lstm_carry(2), lstm_carry(2)], 2)
    with pytest.raises(UserError, match="one vocabulary, got 6 and 5 tokens"):
        generate(pair, (MEMBERS[0], small), carry, PROMPT, None, 0, max_new_tokens=2)
    with pytest.raises(UserError, match="as many sets of parameters and carries, got 1"):
        generate(pair, (MEMBERS[0],), carry, PROMPT, None, 0, max_new_tokens=2)
    few = ensemble_carry(initial, STACKED, 2)._replace(weights=jnp.ones((2, 2)))
    with pytest.raises(UserError, match="needs as many weights a row, got 2"):
        generate(ensemble(lstm_step), STACKED, few, PROMPT, None, 0, max_new_tokens=2)
    with pytest.raises(UserError, match="at least one step function"):
        ensemble_of([])
    with pytest.raises(UserError, match="`mode` must be one of"):
        ensemble(lstm_step, "vote")
