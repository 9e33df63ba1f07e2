"""Guidance against NumPy, over generation, beam search, scores and transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.toy_models import log_softmax, lstm_params, lstm_prefill, lstm_step
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.generation.beam import beam_search
from jaxgen.generation.decoding import decode
from jaxgen.generation.generate import generate
from jaxgen.generation.guidance import guided, guided_carry, mixture, mixture_carry
from jaxgen.generation.mixing import average, product
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.score import score
from jaxgen.models.decoding import initial_carry_of, step_fn_of
from jaxgen.models.language_model import LanguageModel

V, H, LABELS, NULL = 7, 5, 4, 3
PARAMS = {
    "model": lstm_params(jax.random.key(3), V, H),
    "labels": 2 * jax.random.normal(jax.random.key(4), (LABELS, V)),
}
PROMPT = np.array([[1, 2, 0], [4, 0, 0], [5, 6, 2]])
LENGTHS = np.array([2, 1, 3])
TEXT = np.array([[1, 2, 3, 4, 5], [6, 0, 1, 1, 2], [3, 3, 0, 6, 5]])


def step(params, carry, tokens):
    """A toy whose label shifts its logits, with a count that all rows share in its carry."""
    lstm, labels, count = carry
    lstm, logits = lstm_step(params["model"], lstm, tokens)
    return (lstm, labels, count + 1), logits + params["labels"][labels]


def prefill(params, carry, tokens, mask):
    lstm, labels, count = carry
    lstm, logits = lstm_prefill(params["model"], lstm, tokens, mask)
    return (lstm, labels, count + tokens.shape[1]), logits + params["labels"][labels][:, None]


def initial(params, batch_size, labels):
    zeros = jnp.zeros((batch_size, H))
    return (zeros, zeros), jnp.asarray(labels, jnp.int32), jnp.int32(0)


def label_carry(labels, weights):
    return mixture_carry(initial, PARAMS, np.asarray(labels, np.int32), NULL, weights)


FAST = jax.jit(step)


def reference(text, labels, weights):
    """Log-probabilities of the tokens after the first, by plain steps for each label."""

    def of(label):
        carry, rows = initial(PARAMS, 1, [label]), []
        for token in text[:-1]:
            carry, logits = FAST(PARAMS, carry, np.array([token]))
            rows.append(log_softmax(logits[0]))
        return np.array(rows)

    total = null = of(NULL)
    for label, weight in zip(labels, weights, strict=True):
        total = total + weight * (of(label) - null)
    return log_softmax(total)[np.arange(len(text) - 1), text[1:]]


MIXTURES = [
    ([[0], [1], [2]], [[2.0], [0.0], [1.0]]),
    ([[0, 1], [1, 2], [2, 0]], [[0.7, 0.3], [1.5, -0.5], [-1.0, 0.0]]),
]


@pytest.mark.parametrize(("labels", "weights"), MIXTURES)
@pytest.mark.parametrize("prefill_fn", [None, mixture(prefill)])
def test_scores_are_those_of_the_formula(labels, weights, prefill_fn):
    carry = label_carry(labels, weights)
    found = score(mixture(step), PARAMS, carry, TEXT, prefill_fn=prefill_fn)
    for row, text in enumerate(TEXT):
        wanted = reference(text, labels[row], weights[row])
        np.testing.assert_allclose(found.logprobs[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("strength", "label"), [(0.0, NULL), (1.0, 1)])
def test_strength_0_is_the_null_label_and_1_plain_conditioning(strength, label):
    """Penalties that change signed logits, too, see the model's own."""
    labels = np.ones(3, np.int32)
    carry = guided_carry(initial, PARAMS, labels, NULL, strength)
    plain = initial(PARAMS, 3, np.full(3, label))
    options = {"sampling": SamplingParams(repetition_penalty=1.5), "max_new_tokens": 9}
    found = generate(guided(step), PARAMS, carry, PROMPT, LENGTHS, 5, **options)
    wanted = generate(step, PARAMS, plain, PROMPT, LENGTHS, 5, **options)
    assert found.tokens.tolist() == wanted.tokens.tolist()
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, rtol=1e-5, atol=1e-6)


def test_a_row_alone_is_the_same_row_in_a_batch():
    labels, weights = (np.array(x) for x in MIXTURES[1])
    keys = jax.random.split(jax.random.key(0), 3)
    run = mixture(step)
    whole = generate(
        run, PARAMS, label_carry(labels, weights), PROMPT, LENGTHS, keys, max_new_tokens=9
    )
    for row in range(3):
        one = slice(row, row + 1)
        carry = label_carry(labels[one], weights[one])
        alone = generate(run, PARAMS, carry, PROMPT[one], LENGTHS[one], keys[one], max_new_tokens=9)
        assert alone.tokens[0].tolist() == whole.tokens[row].tolist()
        np.testing.assert_allclose(alone.logprobs[0], whole.logprobs[row], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_generated_log_probabilities_are_scores_also_where_a_text_goes_on():
    """In two calls, and read from a prompt in one pass."""
    labels, weights = MIXTURES[1]
    carry, keys = label_carry(labels, weights), jax.random.split(jax.random.key(1), 3)
    sampling = SamplingParams(stop_tokens=[-1])
    run, options = mixture(step), {"prefill_fn": mixture(prefill)}
    out = generate(run, PARAMS, carry, PROMPT, None, keys, sampling, max_new_tokens=4, **options)
    _, more = decode(run, PARAMS, out.state, keys, sampling, max_new_tokens=3, num_logprobs=0)
    whole = generate(run, PARAMS, carry, PROMPT, None, keys, sampling, max_new_tokens=7)
    tokens = np.concatenate([out.tokens, more.tokens], axis=1)
    assert tokens.tolist() == whole.tokens.tolist()
    texts = np.concatenate([PROMPT, tokens], axis=1)
    logprobs = np.concatenate([out.logprobs, more.logprobs], axis=1)
    for row in range(3):
        wanted = reference(texts[row], labels[row], weights[row])[2:]
        np.testing.assert_allclose(logprobs[row], wanted, rtol=1e-4, atol=1e-5)


def test_beams_carry_their_guidance_along():
    labels, weights = MIXTURES[1]
    carry = label_carry(labels, weights)
    out = beam_search(mixture(step), PARAMS, carry, PROMPT[:, :1], num_beams=49, max_new_tokens=2)
    for row in range(3):
        scores = {
            pair: reference([PROMPT[row, 0], *pair], labels[row], weights[row]).sum()
            for pair in np.ndindex(V, V)
        }
        ranked = sorted(scores, key=lambda pair: -scores[pair])
        assert [tuple(x) for x in out.tokens[row, :10].tolist()] == ranked[:10]
        np.testing.assert_allclose(out.logprobs[row, 0], scores[ranked[0]], rtol=1e-4)


def test_changed_labels_and_weights_do_not_retrace():
    traces = []

    def counted(params, carry, tokens):
        traces.append(1)
        return step(params, carry, tokens)

    run = {}
    for seed, (weights, labels) in enumerate(
        [([1, 2], [0, 1]), ([-1, 0.5], [2, 2]), ([0, 3], [3, 0])]
    ):
        carry = label_carry([labels] * 3, np.array(weights, np.float32))
        generate(mixture(counted), PARAMS, carry, PROMPT, LENGTHS, seed, max_new_tokens=3)
        run[seed] = len(traces)
    assert run[0] == run[1] == run[2]


@pytest.mark.slow
def test_it_passes_jit_vmap_and_shard_map():
    labels, weights = (
        np.array(MIXTURES[1][0], np.int32)[:2],
        np.array(MIXTURES[1][1], np.float32)[:2],
    )
    keys = jax.random.split(jax.random.key(1), 2)

    def run(labels, weights, prompt, keys):
        carry = mixture_carry(initial, PARAMS, labels, NULL, weights)
        return generate(
            mixture(step), PARAMS, carry, prompt, None, keys, max_new_tokens=5, num_logprobs=None
        ).tokens

    arguments = labels, weights, PROMPT[:2], keys
    wanted = run(*arguments).tolist()
    assert jax.jit(run)(*arguments).tolist() == wanted
    one = jax.vmap(lambda *row: run(*(x[None] for x in row))[0])
    assert one(*arguments).tolist() == wanted
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")
    divided = jax.shard_map(run, mesh=mesh, in_specs=(rows,) * 4, out_specs=rows)
    assert jax.jit(divided)(*arguments).tolist() == wanted


def test_a_language_model_is_guided_by_its_labels():
    """With `prepare`, and against scores of the model itself under each label."""
    model = LanguageModel(vocab_size=V, hidden_size=8, embedding_size=4, num_labels=LABELS)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(TEXT))["params"]
    params["label_gates"] = 3 * jax.random.normal(jax.random.key(1), (LABELS, 32))
    run, first = step_fn_of(model), initial_carry_of(model)
    labels = jnp.array([0, 1, 2], jnp.int32)
    strength = np.array([0.5, 2.0, 3.0], np.float32)
    carry = guided_carry(first, params, labels, NULL, strength)
    found = score(guided(run), params, carry, TEXT).logprobs

    def logits(labels):
        return log_softmax(
            model.apply({"params": params}, jnp.asarray(TEXT), first(params, 3, labels))[1]
        )

    null = logits(jnp.full(3, NULL, jnp.int32))
    joined = log_softmax(null + strength[:, None, None] * (logits(labels) - null))
    wanted = np.take_along_axis(joined[:, :-1], TEXT[:, 1:, None], axis=2)[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_products_and_averages_are_those_of_float64(seed):
    rng, count = np.random.default_rng(seed), 3
    logits = rng.normal(size=(2, count, V), scale=3).astype(np.float32)
    weights = rng.normal(size=(2, count)).astype(np.float32)
    logprobs = log_softmax(logits)
    wanted = log_softmax((weights[..., None].astype(np.float64) * logprobs).sum(1))
    np.testing.assert_allclose(
        log_softmax(jax.jit(product)(logits, weights)),
        wanted,
        rtol=1e-4,
        atol=1e-4,
    )
    weights = np.abs(weights)
    wanted = np.log((weights[..., None] * np.exp(logprobs)).sum(1))
    np.testing.assert_allclose(jax.jit(average)(logits, weights), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("middle", [(), (4,)])
def test_joining_model_by_model_is_the_reduction_over_them(middle):
    """Logits without a softmax, and weights of 0, among them."""
    rng, count = np.random.default_rng(0), 5
    logits = jnp.asarray(rng.normal(size=(6, count, *middle, V), scale=30), jnp.float32)
    logits = logits.at[1, 2, ..., 3].set(-jnp.inf).at[2, ..., 1].set(-jnp.inf)
    logits = logits.at[3, 1].set(-jnp.inf).at[4, 0].set(jnp.nan).at[5, 4, ..., 2].set(jnp.inf)
    weights = jnp.asarray(rng.uniform(0.1, 1, (6, count)), jnp.float32).at[0, 1:4].set(0)
    powers = weights.reshape(6, count, *[1] * len(middle), 1)
    terms = jnp.where(jnp.isfinite(logits), powers * logits, jnp.nan)
    terms = jnp.where(powers == 0, 0, jnp.where(logits == -jnp.inf, -jnp.inf, terms))
    np.testing.assert_allclose(
        jax.jit(product)(logits, weights), terms.sum(axis=1), rtol=1e-5, atol=1e-5
    )
    logprobs = jnp.log(powers) + jax.nn.log_softmax(logits, axis=-1)
    wanted = jax.nn.logsumexp(jnp.where(powers == 0, -jnp.inf, logprobs), axis=1)
    found = jax.jit(average)(logits, weights)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert np.isnan(found[3:]).all()
    assert (found[2, ..., 1] == -jnp.inf).all()
    assert np.isfinite(found[:2]).all()


def test_impossible_tokens_stay_impossible_and_broken_logits_show():
    inf, nan = np.inf, np.nan
    logits = jnp.array([[[1, -inf, 2, -inf], [3, 5, -inf, -inf]]], jnp.float32)
    for weights, wanted in (
        ([2, -1], [-1, -inf, -inf, -inf]),
        ([1, 0], [1, -inf, 2, -inf]),
        ([0, 2], [6, 10, -inf, -inf]),
    ):
        found = jax.jit(product)(logits, jnp.array([weights], jnp.float32))
        assert found[0].tolist() == wanted  # to the bit
    broken = jnp.array([[[1, nan], [inf, 2]]], jnp.float32)
    for weights, wanted in (
        ([1, 0], [False, True]),
        ([-1, -1], [True, True]),
        ([0, 1], [True, False]),
    ):
        found = jax.jit(product)(broken, jnp.array([weights], jnp.float32))
        assert np.isnan(found[0]).tolist() == wanted
    mean = jax.jit(average)(logits, jnp.array([[0, 1]], jnp.float32))
    np.testing.assert_allclose(mean[0], log_softmax([3, 5, -inf, -inf]), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "`strength` must be 0 or more, and finite, got -1.0"),
        ({"strength": [1, np.nan, 1]}, "finite, got nan"),
        ({"strength": [1, 2]}, "one for each of the 3 rows"),
        ({"labels": 1}, "`labels` must have one entry a row"),
        ({"weights": [1, np.inf]}, "`weights` must be finite, got inf"),
        ({"weights": [1, 2, 3]}, r"`weights` must be \[K\] or \[B, K\]"),
        ({"labels": [0, 1, 2], "weights": [1]}, r"`weights` must be \[K\] or \[B, K\]"),
    ],
)
def test_bad_input_is_named(options, message):
    mixed = "weights" in options
    labels = np.array(options.pop("labels", np.zeros((3, 2) if mixed else 3)), np.int32)
    make = mixture_carry if mixed else guided_carry
    with pytest.raises(UserError, match=message):
        make(initial, PARAMS, labels, NULL, **options)
