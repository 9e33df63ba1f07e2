"""What beams are ranked by, and when a search ends, against the same search by lists in NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.toy_models import (
    AttentiveStep,
    attentive_carry,
    log_softmax,
    lstm_carry,
    lstm_params,
    lstm_step,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.generation.beam import beam_search
from jaxgen.generation.decoding import Prepared
from jaxgen.generation.ensemble import (
    ensemble,
    ensemble_of,
    ensemble_of_carry,
)
from jaxgen.generation.stop_automaton import StopParams, StopStep

pytestmark = pytest.mark.slow

V, N, S, H, STOP, WIDTH = 4, 4, 5, 8, 2, 3
PARAMS = lstm_params(jax.random.key(2), V, scale=0.8)
SOURCE = np.random.default_rng(0).normal(size=(3, S, H)).astype(np.float32)
SOURCE_LENGTHS = np.array([5, 2, 3])
PROMPT = np.array([[1, 3, 0], [2, 0, 0], [3, 1, 0]])
LENGTHS = np.array([3, 1, 2])
STEP = AttentiveStep()
PATHS = np.array(list(itertools.product(range(V), repeat=N)))


def search(rows=slice(None), *, num_beams=WIDTH, count=N, step_fn=STEP, params=PARAMS, **options):
    carry = attentive_carry(SOURCE[rows], SOURCE_LENGTHS[rows])
    shared = {"stop_tokens": [STOP, -1, STOP], "num_beams": num_beams, "max_new_tokens": count}
    prompts = PROMPT[rows], LENGTHS[rows]
    return beam_search(step_fn, params, carry, *prompts, **shared, **options)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def texts_of(row):
    """`AttentiveStep` in NumPy: each text of a row -> its tokens' log-probabilities, coverage."""
    params = {name: np.asarray(value, np.float64) for name, value in PARAMS.items()}
    source = SOURCE[row, : SOURCE_LENGTHS[row]].astype(np.float64)
    prompt = np.tile(PROMPT[row, : LENGTHS[row]], (len(PATHS), 1))
    c = h = np.zeros((len(PATHS), H))
    coverage, logprobs, found = 0.0, [], {}
    for place, token in enumerate(np.concatenate([prompt, PATHS[:, :-1]], axis=1).T):
        gates = params["embedding"][token] + h @ params["recurrent"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        weights = np.exp(log_softmax(h @ source.T))
        coverage = coverage + weights
        logits = log_softmax((h + weights @ source) @ params["output"])
        if (new := place - LENGTHS[row] + 1) >= 0:
            logprobs.append(logits[np.arange(len(PATHS)), PATHS[:, new]])
            for path, said, covered in zip(PATHS, np.array(logprobs).T, coverage, strict=True):
                found[tuple(path[: new + 1].tolist())] = (said, covered)
    return found


TEXTS = [texts_of(row) for row in range(3)]


def rank(row, text, length_penalty=1.0, length_offset=0.0, coverage_penalty=None):
    """Equation 14 of Wu et al. (2016), whose length counts from 5."""
    said, covered = TEXTS[row][text]
    relative = (length_offset + len(text)) / (length_offset + 1)
    score = said.sum() / relative**length_penalty
    return score + (coverage_penalty or 0) * np.log(np.minimum(covered, 1)).sum()


def by_lists(row, patience=None, **ranking):
    """Algorithm 1 of Kasai et al. (2022); without patience all that ends is kept."""
    running, ended = [()], []
    for _ in range(N):
        texts = [(*text, token) for text in running for token in range(V)]
        texts.sort(key=lambda text: -TEXTS[row][text][0].sum())
        running = [text for text in texts if text[-1] != STOP][:WIDTH]
        full = len(running) == WIDTH
        last = texts.index(running[-1]) if full and patience is not None else len(texts)
        ended += [text for text in texts[:last] if text[-1] == STOP]
        if patience is not None and len(ended) >= round(patience * WIDTH, 3):
            running = []
            break
    key = partial(rank, row, **ranking)
    return sorted(ended + running, key=key, reverse=True)[:WIDTH]


RANKINGS = [
    {"length_penalty": 1.0},
    {"length_penalty": 0.6, "length_offset": 5.0},
    {"length_penalty": -0.5},
    {"length_penalty": 0.6, "length_offset": 5.0, "coverage_penalty": 0.2},
    {"length_penalty": 0.0, "coverage_penalty": 3.0},
]


def check(out, row, texts, ranking):
    """One row of a search holds these texts, and what is known of them."""
    assert int((out.lengths[row] > 0).sum()) == len(texts)
    for place, text in enumerate(texts):
        rest = [0] * (N - len(text))
        assert out.tokens[row, place].tolist() == [*text, *rest]
        said = TEXTS[row][text][0]
        # Close to 0 a log-probability in float32 is known to 1e-7.
        each = out.token_logprobs[row, place]
        np.testing.assert_allclose(each, [*said, *rest], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out.logprobs[row, place], said.sum(), rtol=1e-4)
        score = rank(row, text, **ranking)
        np.testing.assert_allclose(out.scores[row, place], score, rtol=1e-4)


@pytest.mark.parametrize("ranking", RANKINGS, ids=str)
def test_rankings_equal_a_search_by_lists(ranking):
    """Prompts differ in length, and what they attended to counts."""
    out = search(**ranking)
    for row in range(3):
        check(out, row, by_lists(row, **ranking), ranking)


@pytest.mark.parametrize("ranking", [RANKINGS[3], {"coverage_penalty": 0.0}], ids=str)
@pytest.mark.parametrize("patience", [0.4, 2 / 3, 1.0, 1.7, 3.0])
def test_patience_equals_a_search_by_lists(patience, ranking):
    out = search(**ranking, patience=patience)
    for row in range(3):
        check(out, row, by_lists(row, patience, **ranking), ranking)


def test_patience_changes_what_is_found():
    """So that the test above compares with something."""
    found = [[by_lists(row, patience) for row in range(3)] for patience in (0.4, 1.0, None)]
    assert all(before != after for before, after in itertools.pairwise(found))


def test_a_wide_beam_finds_the_best_of_all():
    ranking = RANKINGS[3]
    out = search(num_beams=150, **ranking)
    for row in range(3):
        whole = [t for t in TEXTS[row] if STOP not in t[:-1] and (t[-1] == STOP or len(t) == N)]
        ranked = sorted(whole, key=partial(rank, row, **ranking), reverse=True)
        check(out, row, ranked, ranking)


EACH = st.floats(-1, 2, width=32)


@settings(max_examples=12)
@given(
    prompts=st.lists(
        st.lists(st.integers(0, V - 1), min_size=1, max_size=3), min_size=3, max_size=3
    ),
    lengths=st.lists(st.integers(1, S), min_size=3, max_size=3),
    length_penalty=EACH,
    offset=st.floats(0, 6, width=32),
    coverage=st.floats(0, 3, width=32),
    patience=st.floats(0.125, 3, width=32),
    seed=st.integers(0, 9),
)
@example([[1], [2, 0], [3, 1, 0]], [5, 2, 3], 1.0, 0.0, 0.0, 1.0, 0)
def test_a_row_alone_finds_the_same(
    prompts, lengths, length_penalty, offset, coverage, patience, seed
):
    source = np.random.default_rng(seed).normal(size=(3, S, H)).astype(np.float32)
    padded = np.array([[*prompt, *[0] * (3 - len(prompt))] for prompt in prompts])
    ends, lengths = np.array([len(prompt) for prompt in prompts]), np.array(lengths)

    def found(rows):
        return beam_search(
            STEP,
            PARAMS,
            attentive_carry(source[rows], lengths[rows]),
            padded[rows],
            ends[rows],
            num_beams=WIDTH,
            max_new_tokens=6,
            stop_tokens=[STOP],
            length_penalty=length_penalty,
            length_offset=offset,
            coverage_penalty=coverage,
            patience=patience,
        )

    together = found(slice(None))
    for row in range(3):
        alone = found(slice(row, row + 1))
        for batched, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(batched[row], single[0])


def test_models_around_an_attentive_one_attend_too():
    """An ensemble with the mean of its members, of one source."""
    two = jax.tree.map(lambda x: jnp.stack([x, -x]), PARAMS)
    each = [jax.tree.map(lambda x, index=index: x[index], two) for index in range(2)]
    start, token = attentive_carry(SOURCE, SOURCE_LENGTHS), jnp.array([1, 2, 3])
    carries = [STEP(params, start, token)[0] for params in each]
    weights, mask = [carry[3] for carry in carries], start[2]
    assert not np.allclose(*weights)

    def check(found, wanted):
        np.testing.assert_allclose(found[0], wanted, rtol=1e-6)
        np.testing.assert_array_equal(found[1], mask)

    check(Prepared(STEP).attention(each[0], carries[0]), weights[0])
    params = StopParams(each[0], jnp.zeros((2, V), jnp.int32), jnp.full((1,), -1))
    check(StopStep(STEP).attention(params, (carries[0], token)), weights[0])
    mean = (weights[0] + weights[1]) / 2
    carry = ensemble_of_carry(carries, 3)
    check(ensemble_of([STEP, STEP]).attention(tuple(each), carry), mean)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs, axis=1), *carries)
    carry, step = carry._replace(carries=stacked), ensemble(STEP)
    check(step.attention(two, carry), mean)
    check(step.attention(step.prepare(two), carry), mean)
    for step in (Prepared(lstm_step), StopStep(lstm_step), ensemble(lstm_step)):
        assert step.attention is None
    assert ensemble_of([STEP, lstm_step]).attention is None


class WrongAttention(AttentiveStep):
    def attention(self, params, carry):
        return carry[3], carry[2][:, :-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_offset": -0.5}, "`length_offset` must be 0 or more, and finite, got -0.5"),
        ({"coverage_penalty": -1}, "`coverage_penalty` must be 0 or more, and finite, got -1"),
        ({"patience": 0}, "`patience` must be above 0, and finite, got 0"),
        ({"patience": np.nan}, "`patience` must be above 0, and finite, got nan"),
        (
            {"step_fn": WrongAttention(), "coverage_penalty": 1},
            r"`attention` of the step function must .* got \[3, 5\] and \[3, 4\]",
        ),
    ],
)
def test_bad_rankings(options, message):
    with pytest.raises(UserError, match=message):
        search(**options)


def test_a_model_without_attention_refuses_a_coverage_penalty():
    with pytest.raises(
        UserError, match=r"`coverage_penalty` needs a model with attention.*lstm_st"
    ):
        beam_search(
            lstm_step,
            PARAMS,
            lstm_carry(1),
            [[1]],
            num_beams=2,
            max_new_tokens=2,
            coverage_penalty=0.2,
        )
