"""Beam searches against the enumeration of all texts."""

import itertools
import math

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
from jaxgen.generation.stochastic_beam import stochastic_beam_search

V, N, STOP = 4, 4, 2
PARAMS = lstm_params(jax.random.key(2), V)
PROMPT = np.array([[1, 3, 0], [2, 0, 0]])
LENGTHS = np.array([3, 1])


def all_texts(prompt, stop=STOP):
    """Log-probability of each text that ends with the stop token or has N tokens."""
    texts = {}
    step = jax.jit(lstm_step)

    def grow(text, carry, last, logprob):
        if len(text) == N or (text and text[-1] == stop):
            texts[text] = logprob
            return
        carry, logits = step(PARAMS, carry, jnp.array([last]))
        for token, more in enumerate(log_softmax(logits[0])):
            grow((*text, token), carry, token, logprob + more)

    carry = lstm_carry(1)
    for token in prompt[:-1]:
        carry, _ = step(PARAMS, carry, jnp.array([token]))
    grow((), carry, prompt[-1], 0.0)
    return texts


def search(num_beams, **options):
    options = {"stop_tokens": [STOP], "max_new_tokens": N, "prefill_fn": lstm_prefill} | options
    carry = lstm_carry(2)
    return beam_search(lstm_step, PARAMS, carry, PROMPT, LENGTHS, num_beams=num_beams, **options)


def python_beam(prompt, width, penalty):
    """The same search, by lists."""
    texts = all_texts(prompt)
    below = {}
    for text, logprob in texts.items():
        for cut in range(1, len(text) + 1):
            below[text[:cut]] = np.logaddexp(below.get(text[:cut], -np.inf), logprob)
    running, ended = [()], []
    for _ in range(N):
        children = [(*text, token) for text in running for token in range(V)]
        ended += [text for text in children if text[-1] == STOP]
        running = [text for text in children if text[-1] != STOP]
        running = sorted(running, key=lambda text: -below[text])[:width]
    scores = {text: below[text] / len(text) ** penalty for text in ended + running}
    return sorted(scores.items(), key=lambda item: -item[1])[:width]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_a_wide_beam_finds_the_best_of_all(penalty):
    out = search(100, length_penalty=penalty)
    for row, length in enumerate(LENGTHS):
        texts = all_texts(PROMPT[row, :length])
        ranked = sorted(texts.items(), key=lambda item: -item[1] / len(item[0]) ** penalty)
        for place, (text, logprob) in enumerate(ranked[:100]):
            assert out.tokens[row, place, : len(text)].tolist() == list(text)
            assert out.lengths[row, place] == len(text)
            np.testing.assert_allclose(out.logprobs[row, place], logprob, rtol=1e-4)
        assert (np.asarray(out.lengths[row, len(ranked) :]) == 0).all()


CONSTRAINTS = [
    {"min_new_tokens": 2, "banned_tokens": [1]},
    {"no_repeat_ngram": 1},
    {"min_new_tokens": 3, "banned_tokens": [3], "no_repeat_ngram": 2},
]


def legal_texts(prompt, min_new_tokens=0, banned_tokens=(), no_repeat_ngram=0):
    """Log-probabilities of all texts that the constraints allow, and the same renormalised.

    A text ends with the stop token, with N tokens, or where no token may follow.
    """
    n, texts = no_repeat_ngram, {}
    step = jax.jit(lstm_step)

    def may_follow(text, token):
        said = [*prompt, *text, token]
        grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)] if n else []
        early = token == STOP and len(text) < min_new_tokens
        return not early and token not in banned_tokens and grams.count(tuple(said[-n:])) < 2

    def grow(text, carry, last, logprob, sampled):
        carry, logits = step(PARAMS, carry, jnp.array([last]))
        logprobs = log_softmax(logits[0])
        allowed = [token for token in range(V) if may_follow(text, token)]
        if len(text) == N or (text and text[-1] == STOP) or (text and not allowed):
            texts[text] = (logprob, sampled)
            return
        rest = np.logaddexp.reduce([logprobs[token] for token in allowed])
        for token in allowed:
            more = logprobs[token]
            grow((*text, token), carry, token, logprob + more, sampled + more - rest)

    carry = lstm_carry(1)
    for token in prompt[:-1]:
        carry, _ = step(PARAMS, carry, jnp.array([token]))
    grow((), carry, prompt[-1], 0.0, 0.0)
    return texts


@pytest.mark.parametrize("options", CONSTRAINTS, ids=str)
def test_constraints_leave_exactly_the_legal_texts(options):
    """Of a beam as wide as the tree, ranked by probability; and of the stochastic one."""
    out = search(100, length_penalty=0.0, **options)
    drawn = stochastic_beam_search(
        lstm_step,
        PARAMS,
        lstm_carry(2),
        PROMPT,
        LENGTHS,
        num_samples=100,
        max_new_tokens=N,
        stop_tokens=[STOP],
        **options,
    )
    for row, length in enumerate(LENGTHS):
        texts = legal_texts(PROMPT[row, :length].tolist(), **options)
        ranked = sorted(texts.items(), key=lambda item: -item[1][0])
        for place, (text, (logprob, _)) in enumerate(ranked[:100]):
            assert out.tokens[row, place].tolist() == [*text, *[0] * (N - len(text))]
            np.testing.assert_allclose(out.logprobs[row, place], logprob, rtol=1e-4)
        assert int((out.lengths[row] > 0).sum()) == min(len(texts), 100)
        places = range(int((drawn.lengths[row] > 0).sum()))
        found = [tuple(drawn.tokens[row, k, : drawn.lengths[row, k]].tolist()) for k in places]
        assert len(set(found)) == len(found) == min(len(texts), 100)
        wanted = np.array([texts[text] for text in found])
        size = len(found)
        np.testing.assert_allclose(drawn.logprobs[row, :size], wanted[:, 0], rtol=1e-4)
        np.testing.assert_allclose(
            drawn.sampled_logprobs[row, :size], wanted[:, 1], rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_constraints_may_differ_by_row():
    options = {"min_new_tokens": [0, 3], "banned_tokens": [[1], [3]], "no_repeat_ngram": [2, 0]}
    out = search(3, stop_tokens=[[2], [0]], **options)
    for row, length in enumerate(LENGTHS):
        alone = beam_search(
            lstm_step,
            PARAMS,
            lstm_carry(1),
            PROMPT[row : row + 1, :length],
            num_beams=3,
            max_new_tokens=N,
            stop_tokens=[[2], [0]][row],
            **{name: value[row] for name, value in options.items()},
        )
        assert out.tokens[row].tolist() == alone.tokens[0].tolist()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_row_with_logits_that_are_no_numbers_finds_nothing(bad):
    table = jnp.zeros((V, V)).at[1, 0].set(bad).at[3, 1].set(-jnp.inf)
    place = (markov_step, table, jnp.zeros((2,), jnp.int32), [[0], [3]], None)
    shared = {"max_new_tokens": 2, "stop_tokens": [STOP]}
    ruled = {"banned_tokens": [[-1], [1]], **shared}  # the second row never comes to token 1
    best = beam_search(*place, num_beams=4, **ruled)
    drawn = stochastic_beam_search(*place, 0, num_samples=4, **ruled)
    for numbers in (best.scores, best.logprobs, drawn.logprobs, drawn.gumbels):
        assert np.isnan(numbers[0]).all()
        assert np.isfinite(numbers[1]).all()
    for lengths in (best.lengths, drawn.lengths):
        assert (np.asarray(lengths[0]) == 0).all()
        assert (np.asarray(lengths[1]) > 0).all()


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_a_narrow_beam_equals_a_search_by_lists(penalty):
    out = search(3, length_penalty=penalty)
    for row, length in enumerate(LENGTHS):
        for place, (text, score) in enumerate(python_beam(PROMPT[row, :length], 3, penalty)):
            assert out.tokens[row, place].tolist() == [*text, *[0] * (N - len(text))]
            np.testing.assert_allclose(out.scores[row, place], score, rtol=1e-4)


def test_one_beam_is_greedy():
    out = search(1, stop_tokens=None)
    for row, length in enumerate(LENGTHS):
        carry = lstm_carry(1)
        tokens = list(PROMPT[row, :length])
        for token in tokens[:-1]:
            carry, _ = lstm_step(PARAMS, carry, jnp.array([token]))
        for _ in range(N):
            carry, logits = lstm_step(PARAMS, carry, jnp.array([tokens[-1]]))
            tokens.append(int(logits[0].argmax()))
        assert out.tokens[row, 0].tolist() == tokens[length:]


def test_groups_differ_where_the_penalty_asks():
    same = search(4, num_groups=2, stop_tokens=None)
    assert same.tokens[0, 0].tolist() == same.tokens[0, 1].tolist()
    apart = search(4, num_groups=4, stop_tokens=None, diversity_penalty=1e3)
    for row in range(2):
        assert sorted(apart.tokens[row, :, 0].tolist()) == [0, 1, 2, 3]
    scores = np.asarray(apart.scores)
    assert (np.diff(scores, axis=1) <= 0).all()


def sample(count, width, max_new_tokens):
    def one(key):
        return stochastic_beam_search(
            lstm_step,
            PARAMS,
            lstm_carry(1),
            PROMPT[:1],
            LENGTHS[:1],
            key,
            num_samples=width,
            max_new_tokens=max_new_tokens,
            stop_tokens=[STOP],
        )

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))


def test_stochastic_beams_are_samples_without_replacement():
    """First text ~ p, second ~ p given that it is not the first: a chi-square test of the pairs.

    The key is fixed; the bound is that of a false alarm in 1e6 cases.
    """
    count, length = 4000, 2
    out = sample(count, 3, max_new_tokens=length)
    texts = {}
    for text, logprob in all_texts(PROMPT[0, :3]).items():
        texts[text[:length]] = np.logaddexp(texts.get(text[:length], -np.inf), logprob)
    pairs = {}
    for row in np.asarray(out.tokens[:, 0]):
        chosen = tuple(tuple(t[: list(t).index(STOP) + 1] if STOP in t else t) for t in row)
        assert len(set(chosen)) == 3
        pairs[chosen[:2]] = pairs.get(chosen[:2], 0) + 1
    assert set(itertools.chain(*pairs)) <= set(texts)
    cells = []
    for first, second in itertools.permutations(texts, 2):
        p, q = math.exp(texts[first]), math.exp(texts[second])
        cells.append((pairs.get((first, second), 0), count * p * q / (1 - p)))
    cells.sort(key=lambda cell: -cell[1])
    small = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5] + [tuple(map(sum, zip(*small, strict=True)))]
    chi2 = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    freedom = len(cells) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi2 <= bound


def test_a_stochastic_beam_as_wide_as_the_tree_holds_every_text():
    out = sample(1, 125, max_new_tokens=N)
    texts = all_texts(PROMPT[0, :3])
    rows = zip(out.tokens[0, 0].tolist(), out.lengths[0, 0].tolist(), strict=True)
    found = [tuple(tokens[:length]) for tokens, length in rows if length]
    assert sorted(found) == sorted(texts)
    np.testing.assert_allclose(
        out.logprobs[0, 0, : len(found)], [texts[text] for text in found], rtol=1e-4
    )
    assert (np.diff(out.gumbels[0, 0, : len(found)]) <= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "`num_beams` must be at least 1, got 0"),
        ({"num_beams": 4, "num_groups": 3}, "`num_groups` must divide `num_beams`, 4, got 3"),
        ({"num_beams": 2, "stop_tokens": [9]}, r"`stop_tokens` must be in \[0, 4\), got 9"),
    ],
)
def test_bad_beams(options, message):
    with pytest.raises(UserError, match=message):
        search(**options)
