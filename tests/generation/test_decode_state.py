"""Broken logits, gradients, carries, and rows that begin later: what the decode loop promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.test_generate import KEY, LENGTHS, PARAMS, PROMPTS, run
from generation.toy_models import lstm_carry, lstm_step, markov_step

from jaxgen.errors import UserError
from jaxgen.generation.beam import beam_search
from jaxgen.generation.decoding import decode
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.score import score
from jaxgen.generation.stochastic_beam import stochastic_beam_search


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("options", [{}, {"stop_tokens": [-1], "top_k": 2}, {"banned_tokens": [0]}])
def test_logits_that_are_no_numbers_end_the_row_with_an_invalid_token(bad, options):
    table = jnp.where(jnp.arange(5) == (jnp.arange(5)[:, None] + 1) % 5, 99.0, 0.0)
    out = generate(
        markov_step,
        table.at[3, 0].set(bad),
        jnp.zeros((3,), jnp.int32),
        [[1], [3], [4]],
        None,
        0,
        SamplingParams(temperature=[1.0, 0.0, 0.5], forced_tokens=[[-1], [2], [1]], **options),
        max_new_tokens=4,
        pad_id=7,
        num_logprobs=1,
    )
    assert out.tokens.tolist() == [[2, 3, -1, 7], [-1, 7, 7, 7], [1, 2, 3, -1]]
    assert out.lengths.tolist() == [2, 0, 3]
    assert out.finished.tolist() == [True] * 3
    assert np.isnan(out.logprobs).tolist() == (np.asarray(out.tokens) == -1).tolist()
    assert np.isnan(out.top_logprobs[0, 2, 0])


def test_scores_of_logits_that_are_no_numbers_are_none():
    table = jnp.zeros((4, 4)).at[1, 2].set(jnp.nan).at[2, 0].set(jnp.inf)
    tokens = [[0, 1, 3, 0], [0, 2, 0, 3], [0, 3, 0, 1]]
    found = score(markov_step, table, jnp.zeros((3,), jnp.int32), tokens, [4, 4, 3]).logprobs
    wanted = [[False, True, False], [False, True, False], [False, False, False]]
    assert np.isnan(found).tolist() == wanted
    assert float(found[2, 2]) == 0


def mean_logprob(params, prompts=PROMPTS, **options):
    out = generate(
        lstm_step,
        params,
        lstm_carry(3),
        prompts,
        LENGTHS,
        KEY,
        SamplingParams(top_p=0.9, top_k=6, stop_tokens=[3]),
        max_new_tokens=6,
        **options,
    )
    return out.logprobs.sum(), out


@pytest.mark.slow
def test_reverse_mode_by_a_scan_is_the_gradient_of_the_texts_log_probability():
    """Against the gradient of `score` of the same texts; and refused, by name, without the scan."""
    gradient, out = jax.grad(mean_logprob, has_aux=True)(PARAMS, early_exit=False)
    early = mean_logprob(PARAMS)[1]
    assert early.tokens.tolist() == out.tokens.tolist()
    assert out.finished.any()

    texts = np.zeros((3, 10), np.int32)
    for row, length in enumerate(LENGTHS):
        text = [*PROMPTS[row, :length], *out.tokens[row].tolist()]
        texts[row, : len(text)] = text

    def of_score(params):
        lengths = LENGTHS + out.lengths
        logprobs = score(lstm_step, params, lstm_carry(3), texts, lengths).logprobs
        new = jnp.arange(1, 10) >= LENGTHS[:, None]
        return jnp.where(new, logprobs, 0).sum()

    wanted = jax.grad(of_score)(PARAMS)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), gradient, wanted
    )
    forward = jax.jvp(lambda params: mean_logprob(params)[0], (PARAMS,), (PARAMS,))[1]
    dot = sum((x * y).sum() for x, y in zip(*map(jax.tree.leaves, (wanted, PARAMS)), strict=True))
    np.testing.assert_allclose(forward, dot, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="`early_exit` must be False for reverse mode"):
        jax.grad(mean_logprob, has_aux=True)(PARAMS)


def counting_step(params, carry, tokens):
    """A carry with a leaf of each legal kind: batch-first, and a scalar that all rows share."""
    lstm, count, wide = carry
    lstm, logits = lstm_step(params, lstm, tokens)
    return (lstm, count + 1, wide + tokens[:, None]), logits


def test_a_carry_is_batch_first_or_a_shared_scalar():
    carry = (lstm_carry(3), jnp.int32(0), jnp.zeros((3, 3), jnp.int32))
    sampling = SamplingParams(temperature=0.0, stop_tokens=[3])
    options = {"max_new_tokens": 4}
    out = generate(counting_step, PARAMS, carry, PROMPTS, LENGTHS, 0, sampling, **options)
    expected = run(sampling=sampling, count=4)
    assert out.tokens.tolist() == expected.tokens.tolist()
    assert out.finished.any()
    read = LENGTHS.max() - 1 + out.lengths.max()  # a shared scalar goes on with the last row
    assert int(out.carry[1]) == read
    for row in range(3):
        said = [*PROMPTS[row, : LENGTHS[row]], *out.tokens[row, : out.lengths[row]].tolist()]
        assert out.carry[2][row].tolist() == [sum(said[:-1])] * 3
    beams = beam_search(counting_step, PARAMS, carry, PROMPTS, LENGTHS, num_beams=1, **options)
    greedy = run(sampling=SamplingParams(temperature=0.0), count=4)
    assert beams.tokens[:, 0].tolist() == greedy.tokens.tolist()

    wrong = (lstm_carry(3), jnp.int32(0), jnp.zeros((2, 3), jnp.int32))
    message = r"batch of 3 first, or scalars that all rows share, got \[2\]: int32\[2, 3\]"
    for call in (
        lambda: generate(counting_step, PARAMS, wrong, PROMPTS, LENGTHS, 0, **options),
        lambda: beam_search(counting_step, PARAMS, wrong, PROMPTS, num_beams=2, **options),
        lambda: stochastic_beam_search(
            counting_step, PARAMS, wrong, PROMPTS, num_samples=2, **options
        ),
        lambda: score(counting_step, PARAMS, wrong, PROMPTS),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.slow
def test_a_row_that_begins_later_in_a_batch_has_the_text_it_has_alone():
    sampling = SamplingParams(top_p=0.9)
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(2))
    whole = run(PROMPTS[:2], LENGTHS[:2], sampling=sampling, count=8).tokens
    early = run(PROMPTS[:1], LENGTHS[:1], keys[:1], sampling, count=3)
    late = run(PROMPTS[1:2], LENGTHS[1:2], keys[1:], sampling, count=1)
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), early.state, late.state)
    assert both.step.tolist() == [3, 1]
    _, out = decode(lstm_step, PARAMS, both, keys, sampling, max_new_tokens=5)
    assert out.tokens[0].tolist() == whole[0, 3:].tolist()
    assert out.tokens[1].tolist() == whole[1, 1:6].tolist()
