"""`generate` against a Python loop, over batches, chunks, transformations and bad input."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.generation.decoding import decode
from jaxgen.generation.generate import generate
from jaxgen.generation.one_kernel import one_kernel
from jaxgen.generation.sampling import SamplingParams

V = 11
PARAMS = lstm_params(jax.random.key(1))
KEY = jax.random.key(7)
PROMPTS = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]])
LENGTHS = np.array([3, 1, 4])


def run(prompts=PROMPTS, lengths=LENGTHS, key=KEY, sampling=None, count=12, **options):
    carry = lstm_carry(len(prompts))
    return generate(
        lstm_step, PARAMS, carry, prompts, lengths, key, sampling, max_new_tokens=count, **options
    )


def python_loop(prompt, count, choose):
    """Tokens and log-probabilities by plain steps on a batch of one."""
    carry, tokens, logprobs = lstm_carry(1), [], []
    for token in prompt:
        carry, logits = lstm_step(PARAMS, carry, jnp.array([token]))
    for _ in range(count):
        tokens.append(choose(np.asarray(logits[0]), tokens))
        logprobs.append(log_softmax(logits[0])[tokens[-1]])
        carry, logits = lstm_step(PARAMS, carry, jnp.array([tokens[-1]]))
    return tokens, logprobs


@pytest.mark.parametrize("prefill_fn", [None, lstm_prefill])
def test_greedy_equals_a_python_loop(prefill_fn):
    out = run(sampling=SamplingParams(temperature=0.0), prefill_fn=prefill_fn, num_logprobs=2)
    for row, length in enumerate(LENGTHS):
        tokens, logprobs = python_loop(PROMPTS[row, :length], 12, lambda x, _: int(x.argmax()))
        assert out.tokens[row].tolist() == tokens
        np.testing.assert_allclose(out.logprobs[row], logprobs, rtol=1e-5, atol=1e-6)
        assert out.top_tokens[row, :, 0].tolist() == tokens
    assert out.lengths.tolist() == [12, 12, 12]


def test_a_row_alone_equals_the_same_row_in_any_batch():
    """Bit for bit, whatever the batch-mates, the padding, the settings of others and the stop."""
    for sampling, alone in [
        (SamplingParams(temperature=[0.5, 1.0, 1.5]), lambda r: {"temperature": [0.5, 1, 1.5][r]}),
        (
            SamplingParams(top_p=[0.5, 0.9, 1.0], stop_tokens=[[3], [4, 9], [5]]),
            lambda r: {"top_p": [0.5, 0.9, 1.0][r], "stop_tokens": [[3], [4, 9], [5]][r]},
        ),
    ]:
        batch = run(sampling=sampling)
        for row, length in enumerate(LENGTHS):
            key = jax.random.fold_in(KEY, row)
            one = run(
                PROMPTS[row : row + 1, :length],
                None,
                key[None],
                SamplingParams(**alone(row)),
                prefill_fn=lstm_prefill,
            )
            assert one.tokens[0].tolist() == batch.tokens[row].tolist()
            assert one.lengths[0] == batch.lengths[row]


@pytest.mark.slow
def test_any_cut_into_calls_gives_the_same_text():
    sampling = SamplingParams(
        temperature=1.2, top_p=0.9, no_repeat_ngram=3, frequency_penalty=0.3, stop_tokens=[10]
    )
    whole = run(sampling=sampling, count=12)
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(3))
    first = run(sampling=sampling, count=5)
    state = first.state
    tokens = [first.tokens]
    for count in (1, 6):
        state, output = decode(lstm_step, PARAMS, state, keys, sampling, max_new_tokens=count)
        tokens.append(output.tokens)
    assert jnp.concatenate(tokens, 1).tolist() == whole.tokens.tolist()
    assert state.length.tolist() == whole.lengths.tolist()


def test_the_carry_and_the_last_token_continue_a_text():
    greedy = SamplingParams(temperature=0.0)
    whole, half = run(sampling=greedy), run(sampling=greedy, count=6)
    rest = generate(
        lstm_step,
        PARAMS,
        half.carry,
        half.last_tokens[:, None],
        None,
        KEY,
        greedy,
        max_new_tokens=6,
    )
    assert jnp.concatenate([half.tokens, rest.tokens], 1).tolist() == whole.tokens.tolist()


def test_a_stop_token_ends_a_row_and_freezes_it():
    table = jnp.where(jnp.arange(5) == (jnp.arange(5)[:, None] + 1) % 5, 9.0, 0.0)
    out = generate(
        markov_step,
        table,
        jnp.zeros((3,), jnp.int32),
        np.array([[0], [2], [3]]),
        None,
        0,
        SamplingParams(temperature=0.0, stop_tokens=[[4], [3], [-1]]),
        max_new_tokens=6,
        pad_id=-7,
        num_logprobs=1,
    )
    assert out.tokens[0].tolist() == [1, 2, 3, 4, -7, -7]
    assert out.tokens[1].tolist() == [3, -7, -7, -7, -7, -7]
    assert out.tokens[2].tolist() == [4, 0, 1, 2, 3, 4]
    assert out.lengths.tolist() == [4, 1, 6]
    assert out.finished.tolist() == [True, True, False]
    assert out.carry.tolist() == [4, 1, 6]
    assert (np.asarray(out.logprobs[1, 1:]) == 0).all()


def test_the_loop_ends_with_the_last_row():
    steps = []

    def step_fn(table, carry, tokens):
        jax.debug.callback(lambda: steps.append(1))
        return carry, table[tokens]

    table = jnp.where(jnp.arange(4) == 3, 9.0, 0.0) * jnp.ones((4, 1))
    options = SamplingParams(temperature=0.0, stop_tokens=[3])
    out = generate(step_fn, table, jnp.zeros((2,)), [[0], [1]], None, 0, options, max_new_tokens=50)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(steps) == 1
    assert out.lengths.tolist() == [1, 1]


def test_a_changed_value_never_retraces():
    traces = []

    def step_fn(params, carry, tokens):
        traces.append(1)
        return lstm_step(params, carry, tokens)

    @jax.jit
    def sample(lengths, key, sampling):
        return generate(
            step_fn, PARAMS, lstm_carry(3), PROMPTS, lengths, key, sampling, max_new_tokens=4
        ).tokens

    def options(scale):
        return SamplingParams(
            temperature=scale,
            top_k=max(1, int(scale * 5)),
            top_p=scale / 2,
            min_p=[0.1, 0.2, scale / 9],
            repetition_penalty=scale,
            presence_penalty=scale,
            no_repeat_ngram=int(scale * 2),
            min_new_tokens=int(scale),
            banned_tokens=[int(scale)],
            stop_tokens=[int(scale) + 1],
        )

    first = sample(LENGTHS, jax.random.key(0), options(1))
    count = len(traces)
    second = sample(LENGTHS - 0, jax.random.key(1), options(0.7))
    sample(np.array([1, 1, 2]), jax.random.key(2), options(1.3))
    assert len(traces) == count
    assert first.shape == second.shape == (3, 4)


@pytest.mark.slow
def test_composes_with_vmap_map_and_shard_map():
    expected = run(count=5).tokens
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(3))

    def one(prompt, length, key):
        return run(prompt[None], length[None], key[None], count=5).tokens[0]

    inputs = (jnp.asarray(PROMPTS), jnp.asarray(LENGTHS), keys)
    assert jax.vmap(one)(*inputs).tolist() == expected.tolist()
    assert jax.lax.map(lambda x: one(*x), inputs).tolist() == expected.tolist()

    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")
    for sampling in (SamplingParams(), SamplingParams(top_p=0.9, stop_tokens=[3])):

        def some(prompts, lengths, keys, sampling=sampling):
            return run(prompts, lengths, keys, sampling, count=5, num_logprobs=0).tokens

        sharded = jax.jit(jax.shard_map(some, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows))
        twice = [jnp.concatenate([x, x[:1]]) for x in inputs]
        expected = some(*twice)
        assert sharded(*twice).tolist() == expected.tolist()


def test_penalties_bans_and_forced_tokens_against_a_python_loop():
    def choose(logits, tokens, prompt=(1, 2, 3)):
        logits = logits.astype(np.float64)
        said = list(prompt) + tokens
        for token in set(said):
            logits[token] = logits[token] * (1.4 if logits[token] < 0 else 1 / 1.4)
        for token in set(tokens):
            logits[token] -= 0.3 * tokens.count(token) + 0.2
        for start in range(len(said) - 1):
            if said[start] == said[-1]:
                logits[said[start + 1]] = -np.inf
        logits[9] = -np.inf
        return 7 if len(tokens) == 1 else int(logits.argmax())

    out = run(
        PROMPTS[:1],
        LENGTHS[:1],
        sampling=SamplingParams(
            temperature=0.0,
            repetition_penalty=1.4,
            frequency_penalty=0.3,
            presence_penalty=0.2,
            no_repeat_ngram=2,
            banned_tokens=[9],
            forced_tokens=[-1, 7],
        ),
        count=20,
    )
    assert out.tokens[0].tolist() == python_loop(PROMPTS[0, :3], 20, choose)[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_no_ngram_comes_twice(seed, n):
    table = jax.random.normal(jax.random.key(seed), (6, 6))
    out = generate(
        markov_step,
        table,
        jnp.zeros((1,), jnp.int32),
        [[1, 2, 1, 0]],
        None,
        seed,
        SamplingParams(no_repeat_ngram=n),
        max_new_tokens=16,
        pad_id=-1,
    )
    text = [1, 2, 1, 0, *(t for t in out.tokens[0].tolist() if t >= 0)]
    grams = [tuple(text[i : i + n]) for i in range(1 if n == 3 else 0, len(text) - n + 1)]
    new = [g for i, g in enumerate(grams) if i + n > (3 if n == 3 else 4)]
    assert all(grams.count(gram) == 1 for gram in new)
    assert out.lengths[0] == len(text) - 4
    assert bool(out.finished[0]) == (len(text) < 20)


def test_min_new_tokens_delays_the_stop():
    table = jnp.where(jnp.arange(4) == 3, 9.0, 0.0) * jnp.ones((4, 1))
    options = SamplingParams(temperature=0.0, stop_tokens=[3], min_new_tokens=[0, 2])
    out = generate(
        markov_step, table, jnp.zeros((2,), int), [[0], [0]], None, 0, options, max_new_tokens=5
    )
    assert out.lengths.tolist() == [1, 3]


def test_an_empty_prompt_starts_from_bos():
    greedy = SamplingParams(temperature=0.0)
    expected = run(np.array([[6], [4], [6]]), None, sampling=greedy).tokens
    got = run(np.array([[0, 0], [4, 0], [0, 0]]), np.array([0, 1, 0]), sampling=greedy, bos_id=6)
    assert got.tokens.tolist() == expected.tolist()
    got = run(np.zeros((3, 0)), None, sampling=greedy, bos_id=6)
    assert got.tokens[0].tolist() == expected[0].tolist()


def wrong_carry(params, carry, tokens):
    (c, h), logits = lstm_step(params, carry, tokens)
    return (c.astype(jnp.float16), jnp.concatenate([h, h], 1)), logits


BAD = [
    ({"sampling": {"temperature": -1}}, "`temperature` must be finite and 0 or more, got -1"),
    ({"sampling": {"temperature": float("nan")}}, "got nan; 0 is greedy"),
    ({"sampling": {"temperature": "hot"}}, "`temperature` must be a number or one a row"),
    ({"sampling": {"top_p": 1.3}}, r"`top_p` must be in \(0, 1\], got 1.3; use 1.0 to disable"),
    ({"sampling": {"top_p": 0}}, "`top_p` must be in"),
    ({"sampling": {"top_k": 12}}, "`top_k` must be at most the vocabulary of 11, got 12"),
    ({"sampling": {"top_k": 2.5}}, "`top_k` must be a whole number, got 2.5"),
    ({"sampling": {"top_k": 9, "max_top_k": 4}}, "at most `max_top_k`, 4, got 9"),
    ({"sampling": {"top_p": [0.5, 0.6]}}, r"one for each of the 3 rows, got shape \(2,\)"),
    ({"sampling": {"stop_tokens": [[1], [2]]}}, "`stop_tokens` must be one list for all"),
    ({"sampling": {"stop_tokens": [11]}}, r"`stop_tokens` must be in \[0, 11\), got 11"),
    ({"sampling": {"banned_tokens": list(range(V))}}, "must be fewer than all tokens, got 11"),
    ({"lengths": np.array([1, 0, 1])}, "at least 1 without a `bos_id`, got 0 in row 1"),
    ({"lengths": np.array([1, 5, 1])}, r"must be in \[0, 4\], got 5"),
    ({"lengths": np.array([1, 1])}, r"each of the 3 rows, got shape \(2,\)"),
    ({"prompts": np.zeros((3, 2))}, r"whole numbers of shape \[B, P\], got float64"),
    ({"key": jax.random.split(KEY, 2)}, r"one for each of the 3 rows, got shape \(2,\)"),
    ({"key": 1.5}, "`key` must be a seed"),
    ({"key": 2**32}, r"a seed `key` must be in \[-2\*\*31, 2\*\*32\), got 4294967296"),
    ({"count": 0}, "`max_new_tokens` must be at least 1, got 0"),
    ({"num_logprobs": 12}, r"`num_logprobs` must be in \[0, 11\], got 12"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_error(change, message):
    def call(sampling=None, **others):
        run(sampling=None if sampling is None else SamplingParams(**sampling), **others)

    with pytest.raises(UserError, match=message):
        call(**change)


@pytest.mark.parametrize(
    ("step_fn", "message"),
    [
        (lambda p, c, t: (c, jnp.zeros((3,))), r"logits of shape \[B, V\] with B = 3, got float32"),
        (lambda p, c, t: (c, jnp.zeros((3, 5), int)), "floating-point logits, got int32"),
        (lambda p, c, t: c, "must return"),
        (
            wrong_carry,
            r"\[0\]: float32\[3, 8\] -> float16\[3, 8\]; \[1\]: .* -> float32\[3, 16\]",
        ),
        (lambda p, c, t: ([*c, t], jnp.zeros((3, 5))), r"\[2\]: nothing -> int32\[3\]"),
    ],
)
def test_a_step_function_that_breaks_its_contract_is_named(step_fn, message):
    with pytest.raises(UserError, match=message):
        generate(step_fn, PARAMS, lstm_carry(3), PROMPTS, None, 0, max_new_tokens=2)


def test_a_single_row_in_one_kernel_is_the_same_text():
    sampling = SamplingParams(temperature=0.8, top_p=0.9, stop_tokens=[3])

    def first_row(lengths):
        return run(PROMPTS[:1], lengths, sampling=sampling, count=30).tokens

    assert first_row(LENGTHS[:1]).tolist() == jax.jit(first_row)(LENGTHS[:1]).tolist()


def product(x):
    return x @ (x.T @ x)


@pytest.mark.parametrize(
    ("step", "fits"),
    [
        (lambda x: jax.nn.softmax(x @ jnp.ones((5, 5))), True),
        (lambda x: jnp.sort(x, axis=1), False),
        (lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, product, x), False),
        (lambda x: x.at[0, jnp.arange(2)].add(1), False),
    ],
)
def test_one_kernel_is_asked_for_where_no_library_is_called(step, fits):
    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: step(x), x)

    lowered = jax.jit(one_kernel(loop)).lower(jnp.ones((1, 5)))
    assert ("xla_cpu_small_call" in lowered.as_text()) == fits


@pytest.mark.parametrize(
    ("size", "options"), [(5, {"top_k": 2, "repetition_penalty": 1.3}), (1500, {"top_p": 0.9})]
)
@pytest.mark.slow
def test_what_one_kernel_cannot_hold_runs_quietly_without_it(size, options, capfd):
    table = jax.random.normal(KEY, (size, size))

    def tokens(key):
        carry, sampling = jnp.zeros((1,), jnp.int32), SamplingParams(**options)
        prompt = [[1]]
        out = generate(markov_step, table, carry, prompt, None, key, sampling, max_new_tokens=8)
        return out.tokens

    assert tokens(KEY).tolist() == jax.jit(tokens)(KEY).tolist()
    assert capfd.readouterr().err == ""
