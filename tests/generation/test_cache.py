"""The continuous cache against plain lists in NumPy, over all that generates and scores."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.text_models import make_labelled_model, make_model
from generation.toy_models import log_softmax, lstm_carry, lstm_params, lstm_prefill, lstm_step

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.beam import beam_search
from jaxgen.generation.cache import (
    CacheCarry,
    cached,
    cached_carry,
    cached_params,
    empty_window,
    read_tokens,
)
from jaxgen.generation.cached_text import cached_model
from jaxgen.generation.generate import generate
from jaxgen.generation.guidance import guided, guided_carry
from jaxgen.generation.joined import ensemble_model
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.score import score

V, H = 7, 5
MODEL = lstm_params(jax.random.key(3), V, H)
THETA, LAMBDA = 1.5, 0.4
PARAMS = cached_params(MODEL, THETA, LAMBDA)
TEXT = np.array([[1, 2, 3, 1, 2, 0, 1, 2, 3], [6, 0, 6, 0, 6, 1, 0, 6, 0]])


def step(params, carry, tokens):
    carry, logits = lstm_step(params, carry, tokens)
    return carry, logits, carry[1]


def prefill(params, carry, tokens, mask):
    def one(carry, now):
        token, real = now
        after, logits, hidden = step(params, carry, token)
        after = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), after, carry)
        return after, (logits, hidden)

    carry, outputs = jax.lax.scan(one, carry, (tokens.T, mask.T))
    return carry, *(x.swapaxes(0, 1) for x in outputs)


FAST = jax.jit(step)


def first(batch, window):
    return cached_carry(step, MODEL, lstm_carry(batch, H), window)


def reference(text, window, theta=THETA, lambda_=LAMBDA):
    """Log-probabilities of all tokens after each token of a text, by a list of pairs."""
    carry, pairs, rows, before = lstm_carry(1, H), [], [], None
    for token in text:
        if before is not None:
            pairs = [*pairs, (before, int(token))][-window:]
        carry, logits, hidden = FAST(MODEL, carry, jnp.asarray([token]))
        before = np.asarray(hidden[0], np.float64)
        probabilities = np.exp(log_softmax(logits[0]))
        if pairs:
            weights = np.exp(theta * np.array([before @ state for state, _ in pairs]))
            cache = np.zeros(V)
            for weight, (_, follower) in zip(weights / weights.sum(), pairs, strict=True):
                cache[follower] += weight
            probabilities = (1 - lambda_) * probabilities + lambda_ * cache
        rows.append(np.log(probabilities))
    return np.array(rows)


@pytest.mark.parametrize("window", [1, 3, 20])
def test_a_step_mixes_what_followed_like_states(window):
    carry, run = first(2, window), jax.jit(cached(step))
    found = []
    for tokens in TEXT.T:
        carry, logits = run(PARAMS, carry, jnp.asarray(tokens))
        found.append(np.asarray(logits))
    for row, text in enumerate(TEXT):
        ours = np.array(found)[:, row]
        np.testing.assert_allclose(ours, reference(text, window), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [2, 5])
def test_a_prompt_read_at_once_or_in_parts_leaves_the_same_cache(window):
    """Parts longer and shorter than the window, and padding before, between and after tokens."""
    read = jax.jit(cached(prefill))
    carry, position, found = first(2, window), np.zeros(2, int), [[], []]
    masks = [
        [[0, 1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0]],
        [[0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
        [[1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]],
    ]
    for mask in np.array(masks, bool):
        tokens = np.full(mask.shape, 4)
        for row in range(2):
            end = position[row] + mask[row].sum()
            tokens[row, mask[row]] = TEXT[row, position[row] : end]
            position[row] = end
        carry, logits = read(PARAMS, carry, jnp.asarray(tokens), jnp.asarray(mask))
        for row in range(2):
            found[row].append(np.asarray(logits)[row, mask[row]])
    assert (position == len(TEXT[0])).all()
    for row, text in enumerate(TEXT):
        ours = np.concatenate(found[row])
        np.testing.assert_allclose(ours, reference(text, window), rtol=0, atol=1e-5)


def test_theta_0_counts_and_lambda_0_is_the_model_itself():
    for theta, lambda_ in ((0.0, 0.4), (2.0, 0.0)):
        params = cached_params(MODEL, theta, lambda_)
        found = score(cached(step), params, first(2, 4), TEXT).logprobs
        wanted = [reference(text, 4, theta, lambda_) for text in TEXT]
        places = np.arange(TEXT.shape[1] - 1)
        wanted = [rows[places, text[1:]] for rows, text in zip(wanted, TEXT, strict=True)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    plain = score(lstm_step, MODEL, lstm_carry(2, H), TEXT).logprobs
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)


def test_a_cache_rides_through_generation_and_a_row_is_the_same_in_any_batch():
    prompts, lengths = TEXT[:, :4], np.array([4, 2])
    sampling = SamplingParams(temperature=0.8, top_p=0.9)
    run = {"max_new_tokens": 6, "num_logprobs": 0}
    keys = jax.random.split(jax.random.key(1), 2)
    together = generate(cached(step), PARAMS, first(2, 3), prompts, lengths, keys, sampling, **run)
    read = generate(
        cached(step), PARAMS, first(2, 3), prompts, lengths, keys, sampling,
        prefill_fn=cached(prefill), **run,
    )  # fmt: skip
    np.testing.assert_array_equal(read.tokens, together.tokens)
    for row in range(2):
        text = np.concatenate([prompts[row, : lengths[row]], together.tokens[row]])
        rows = reference(text, 3)[lengths[row] - 1 : -1]
        wanted = rows[np.arange(6), together.tokens[row]]
        np.testing.assert_allclose(together.logprobs[row], wanted, rtol=0, atol=1e-5)
        alone = generate(
            cached(step), PARAMS, first(1, 3), prompts[row : row + 1], lengths[row : row + 1],
            keys[row : row + 1], sampling, **run,
        )  # fmt: skip
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])


@pytest.mark.slow
def test_a_beam_carries_each_text_s_own_cache():
    found = beam_search(
        cached(step), PARAMS, first(1, 3), TEXT[:1, :3], None, max_new_tokens=3, num_beams=V**2
    )
    best = max(
        ((reference([*TEXT[0, :3], *new], 3)[2:5], new) for new in np.ndindex(V, V, V)),
        key=lambda row: row[0][np.arange(3), row[1]].sum(),
    )
    np.testing.assert_array_equal(found.tokens[0, 0], best[1])


@pytest.mark.slow
def test_seeds_theta_and_lambda_are_mapped_over():
    both = jax.vmap(lambda theta, lambda_: cached_params(MODEL, theta, lambda_))
    params = both(jnp.array([0.0, 1.5]), jnp.array([0.1, 0.4]))
    run = jax.vmap(
        lambda params: score(cached(step), params, first(2, 4), TEXT, prefill_fn=cached(prefill))
    )
    found = run(params).logprobs
    for index, (theta, lambda_) in enumerate(((0.0, 0.1), (1.5, 0.4))):
        own = cached_params(MODEL, theta, lambda_)
        alone = score(cached(step), own, first(2, 4), TEXT, prefill_fn=cached(prefill)).logprobs
        np.testing.assert_allclose(found[index], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_text_model_with_a_cache_scores_writes_and_recompiles_for_no_setting():
    lm = make_labelled_model()
    plain = lm.score("abcabcab", label="joy")
    with_cache = cached_model(lm, 4, 0.5, 0.3)
    sample = with_cache.sample("abcab", max_new_tokens=6, key=1, label="joy")
    found = with_cache.score(sample.text, prompt="abcab", label="joy")
    np.testing.assert_allclose(sample.logprobs, found, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        cached_model(lm, 4, 0.5, 0.0).score("abcabcab", label="joy"), plain, rtol=0, atol=1e-5
    )
    assert np.abs(with_cache.score("abcabcab", label="joy") - plain).max() > 0.01
    compiled = programs.prefill_and_decode._cache_size()
    cached_model(lm, 4, 0.7, 0.2).sample("abcab", max_new_tokens=6, key=1, label="joy")
    assert programs.prefill_and_decode._cache_size() == compiled
    state = with_cache.prefill("abcab", label="joy")
    after = with_cache.score(sample.text, after=state)
    np.testing.assert_allclose(after, found, rtol=0, atol=1e-5)
    assert isinstance(state.carry, CacheCarry)


@pytest.mark.slow
def test_guidance_joins_what_model_and_cache_say_under_each_label():
    lm = cached_model(make_labelled_model(), 4, 0.5, 0.3)
    labels, null, tokens = np.array([1, 0]), 3, np.array([[1, 2, 1, 2], [3, 3, 2, 3]])
    carry = guided_carry(lm.initial_carry, lm.params, labels, null, 2.0)
    found = score(guided(lm.step_fn), lm.params, carry, tokens).logprobs

    def under(labels):
        carry, rows = lm.initial_carry(lm.params, 2, jnp.asarray(labels)), []
        for read in tokens.T[:-1]:
            carry, logits = lm.step_fn(lm.params, carry, jnp.asarray(read))
            rows.append(np.asarray(logits))
        return np.stack(rows, axis=1)

    away = under(np.full(2, null))
    wanted = log_softmax(away + 2.0 * (under(labels) - away))
    wanted = np.take_along_axis(wanted, tokens[:, 1:, None], axis=2)[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_ensemble_is_of_models_with_a_cache_each():
    lm = make_labelled_model()
    other = replace(lm, params=jax.tree.map(lambda x: x * 0.7, lm.params))
    members = [cached_model(lm, 4, 0.5, 0.3), cached_model(other, 4, 0.2, 0.5)]
    found = ensemble_model(members).score("abcab", prompt="ab", label="joy")
    each = [np.exp(member.score("abcab", prompt="ab", label="joy")) for member in members]
    np.testing.assert_allclose(found, np.log(np.mean(each, axis=0)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((-0.1, 0.1), "`theta` must be 0 or more, and finite, got -0.1"),
        ((np.inf, 0.1), "`theta` must be 0 or more, and finite, got inf"),
        ((np.nan, 0.1), "`theta` must be 0 or more, and finite, got nan"),
        ((0.1, 1.0), "`lambda_` must be at least 0 and below 1, got 1"),
        ((0.1, -1e-3), "`lambda_` must be at least 0 and below 1, got -0.001"),
        ((0.1, [0.1, 0.2]), r"`lambda_` must be one number, got shape \(2,\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        cached_params(MODEL, *settings)


def test_a_cache_needs_a_window_a_batch_and_hidden_states():
    with pytest.raises(UserError, match="`window` must be at least 1, got 0"):
        first(2, 0)
    with pytest.raises(UserError, match="`carry` must have a leaf with the batch first"):
        cached_carry(step, MODEL, jnp.int32(0), 3)
    with pytest.raises(UserError, match=r"must return \(carry, logits, hidden\), got 2 values"):
        cached_carry(lstm_step, MODEL, lstm_carry(2, H), 3)
    with pytest.raises(UserError, match="needs the hidden states of one model"):
        cached_model(make_model(prefill_fn=lstm_prefill), 3, 0.1, 0.1)
    with pytest.raises(UserError, match="`cache` must be at least 1, got 0"):
        cached_model(make_labelled_model(), 0, 0.1, 0.1)


def test_nothing_is_remembered_before_the_second_token():
    window = empty_window(1, 4, jnp.zeros((1, H)))
    hidden = jax.random.normal(jax.random.key(0), (1, 2, H))
    _, recall = read_tokens(window, hidden, jnp.array([[1, 2]]), jnp.ones((1, 2), bool), 3)
    np.testing.assert_array_equal(recall.visible.sum(-1), [[0, 1]])
