"""Tokens drawn from the head first follow the same distribution as from all log-probabilities."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.errors import UserError
from jaxgen.generation import head_first
from jaxgen.generation.draw import filter_logits
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import LanguageModel
from jaxgen.ops.adaptive_softmax import AdaptiveParams, Tail, adaptive_logprobs, head_logprobs
from jaxgen.ops.clusters import Clusters, make_clusters

V, H = 13, 5
CLUSTERS = make_clusters(np.random.default_rng(3).permutation(V), (5, 8))


class Calls(list):
    """One entry a call; hashable, as all that a step function holds must be."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclass(frozen=True)
class Toy:
    """A bigram model: what the output layer reads is a row of a table."""

    clusters: Clusters = CLUSTERS
    called: tuple = ()
    """Holds a list that is added to where tails are computed."""

    def __call__(self, params, carry, tokens):
        return carry, adaptive_logprobs(params[1], self.clusters, params[0][tokens])

    @property
    def head_first(self):
        return ToyHeadFirst(self)


@dataclass(frozen=True)
class ToyHeadFirst:
    step: Toy

    @property
    def clusters(self):
        return self.step.clusters

    def __call__(self, params, carry, tokens):
        hidden = params[0][tokens]
        return carry, head_logprobs(params[1], hidden), hidden

    def complete(self, params, head, hidden):
        for calls in self.step.called:
            jax.debug.callback(partial(calls.append, 1))
        return adaptive_logprobs(params[1], self.clusters, hidden, head)


class Another(Toy):
    """The same, compiled anew."""


@dataclass(frozen=True)
class Full:
    """The same model without the option."""

    def __call__(self, params, carry, tokens):
        return Toy()(params, carry, tokens)


def params_of(tail_bias=0.0, scale=1.0, seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(scale * random.normal(size=shape), jnp.float32)

    shortlist, *sizes = CLUSTERS.sizes
    bias = jnp.concatenate([jnp.zeros(shortlist), jnp.full(len(sizes), tail_bias)])
    tails = tuple(Tail(normal(H, 3), normal(3, n), normal(n)) for n in sizes)
    return normal(V, H), AdaptiveParams(normal(H, shortlist + len(sizes)), bias, tails)


def write(step, params, sampling, prompts, count=1, key=0, **options):
    carry = jnp.zeros((len(prompts), 0))
    prompts = jnp.asarray(prompts)[:, None]
    return generate(
        step, params, carry, prompts, None, key, sampling, max_new_tokens=count, **options
    )


SETTINGS = {
    "temperature": {"temperature": [1.0, 0.4, 2.5, 1.0]},
    "top-p": {"temperature": [1.0, 0.6, 1.8, 1.0], "top_p": [0.7, 0.9, 0.5, 1.0]},
    "min-p": {"temperature": [1.0, 0.6, 1.8, 1.0], "min_p": [0.1, 0.3, 0.0, 0.6]},
    "top-k": {"temperature": [1.0, 0.6, 1.8, 1.0], "top_k": [3, 7, 0, 1]},
    "all": {
        **{"temperature": [1.0, 0.6, 1.8, 1.3], "top_k": [4, 9, 0, 6]},
        **{"top_p": [0.8, 0.95, 0.6, 1.0], "min_p": [0.05, 0.0, 0.1, 0.2]},
        **{"repetition_penalty": [1.5, 0.8, 1.0, 2.0], "banned_tokens": [[2], [-1], [7], [0]]},
    },
}
ROWS = 2000
# Both tests of a setting run one program: the same shapes.
CASES = [name if name == "all" else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]


def settings_of(name):
    """One a row, `ROWS` rows of each."""
    return {field: np.repeat(np.asarray(x), ROWS, axis=0) for field, x in SETTINGS[name].items()}


@pytest.mark.parametrize("name", CASES)
def test_tokens_follow_the_distribution_of_all_log_probabilities(name):
    """By a chi-squared test a setting; a false alarm of any has probability 2e-5."""
    settings, params, prompts = settings_of(name), params_of(), np.repeat([1, 4, 9, 11], ROWS)
    full = jax.jit(Toy())
    out = write(Toy(), params, SamplingParams(**settings), prompts)
    own = {field: values[::ROWS] for field, values in settings.items()}
    logits = np.array(full(params, None, prompts[::ROWS])[1])
    if "banned_tokens" in own:
        factor = np.asarray(own["repetition_penalty"])
        for row, banned in enumerate(own["banned_tokens"][:, 0]):
            logits[row, prompts[row * ROWS]] *= factor[row]
            logits[row, banned if banned >= 0 else ()] = -np.inf
    kept = {f: x for f, x in own.items() if f in ("temperature", "top_k", "top_p", "min_p")}
    filtered = jax.jit(filter_logits)(jnp.asarray(logits), SamplingParams(**kept).rows(4))
    expected = jax.nn.softmax(filtered)
    for row, share in enumerate(np.asarray(expected, np.float64)):
        tokens = np.asarray(out.tokens[row * ROWS : (row + 1) * ROWS, 0])
        counts = np.bincount(tokens, minlength=V)
        there = share > 0
        assert not counts[~there].any()
        test = scipy.stats.chisquare(counts[there], ROWS * share[there] / share.sum())
        assert np.isnan(test.pvalue) or test.pvalue > 1e-6, (row, counts, ROWS * share)
        logprob = np.asarray(full(params, None, prompts[row * ROWS][None])[1])[0, tokens]
        found = out.logprobs[row * ROWS : (row + 1) * ROWS, 0]
        np.testing.assert_allclose(found, logprob, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_bound_never_decides_otherwise_than_all_log_probabilities(name, monkeypatch):
    prompts, sampling = np.arange(4 * ROWS) % V, SamplingParams(**settings_of(name))
    for tail_bias in (0.0, -3.0):
        params = params_of(tail_bias)
        early = write(Toy(), params, sampling, prompts)
        with monkeypatch.context() as patch:
            patch.setattr(head_first, "_surely_kept", lambda _, words, *__: words[:, 0] > jnp.inf)
            late = write(Another(), params, sampling, prompts)
        assert early.tokens.tolist() == late.tokens.tolist()
        np.testing.assert_allclose(early.logprobs, late.logprobs, rtol=1e-5, atol=1e-6)


def test_greedy_equals_all_log_probabilities():
    params, prompts = params_of(), np.arange(V)
    sampling = SamplingParams(temperature=0.0, repetition_penalty=[1.5] * V)
    ours = write(Toy(), params, sampling, prompts, count=12)
    assert (
        ours.tokens.tolist() == write(Full(), params, sampling, prompts, count=12).tokens.tolist()
    )
    assert np.isin(np.asarray(ours.tokens), CLUSTERS.members(0)).mean() not in (0, 1)


@pytest.mark.slow
def test_of_equal_tokens_the_lowest_id_is_greedy():
    """One in the head and one in a tail of a single token, both with probability one half."""
    clusters = Clusters((1,), (0.5, 0.5), np.asarray([1, 0], "<i4").tobytes())
    params = (
        jnp.zeros((2, 1)),
        AdaptiveParams(
            jnp.zeros((1, 2)),
            jnp.zeros(2),
            (Tail(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1)),),
        ),
    )
    out = write(Toy(clusters), params, SamplingParams(temperature=0.0), [1], count=2)
    assert out.tokens.tolist() == [[0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"top_p": 0.8}, {"temperature": 1.5, "stop_tokens": [3]}])
def test_a_row_alone_equals_the_same_row_in_any_batch(settings):
    params, prompts = params_of(), np.arange(10)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(5)))(jnp.arange(10))
    sampling = SamplingParams(**settings)
    batch = write(Toy(), params, sampling, prompts, count=8, key=keys)
    for row in (0, 3, 9):
        alone = write(Toy(), params, sampling, prompts[row : row + 1], count=8, key=keys[row][None])
        assert alone.tokens[0].tolist() == batch.tokens[row].tolist()


def test_tails_are_computed_where_they_are_drawn_alone():
    calls = Calls()
    prompts, sampling = np.zeros(1, int), SamplingParams(temperature=0.9)
    for tail_bias, expected in ((-40.0, 0), (40.0, 20)):
        calls.clear()
        out = write(Toy(called=(calls,)), params_of(tail_bias), sampling, prompts, count=20)
        jax.block_until_ready(out)
        jax.effects_barrier()
        assert len(calls) == expected


@pytest.mark.slow
def test_rows_that_have_ended_ask_for_no_tails():
    calls = Calls()
    params, stop = params_of(40.0), SamplingParams(stop_tokens=list(range(V)))
    out = write(Toy(called=(calls,)), params, stop, np.zeros(1, int), count=20)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(calls) == 1


@pytest.mark.slow
def test_broken_logits_and_bans_end_a_row():
    table, output = params_of()
    broken = (table.at[1].set(jnp.nan), output)
    out = write(Toy(), broken, None, [1, 2], count=2)
    assert out.tokens[0].tolist() == [-1, 0]
    assert out.lengths.tolist()[0] == 0
    traced = jax.jit(
        lambda banned: write(Toy(), (table, output), SamplingParams(banned_tokens=banned), [1])
    )(jnp.arange(V))
    assert traced.tokens.tolist() == [[0]]
    assert traced.lengths.tolist() == [0]


@pytest.mark.slow
def test_reverse_mode_needs_all_log_probabilities():
    table, output = params_of()

    def loss(table, early_exit):
        return write(Toy(), (table, output), None, [1, 2], 2, early_exit=early_exit).logprobs.sum()

    with pytest.raises(UserError, match="`early_exit` must be False"):
        jax.grad(loss)(table, True)
    assert jnp.isfinite(jax.grad(loss)(table, False)).all()


@pytest.mark.slow
def test_a_language_model_writes_with_it():
    model = LanguageModel(V, 6, clusters=CLUSTERS, tail_divisor=2.0)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda p: 3 * p, params)
    step, carry, prompts = step_fn_of(model), model.initial_carry(3), jnp.asarray([[0], [5], [9]])

    def full(params, carry, tokens):
        return step(params, carry, tokens)

    greedy = SamplingParams(temperature=0.0)
    ours, theirs = (
        generate(f, params, carry, prompts, None, 0, greedy, max_new_tokens=9) for f in (step, full)
    )
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=1e-4, atol=1e-5)
