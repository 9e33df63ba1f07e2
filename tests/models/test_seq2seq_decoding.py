"""The encoder-decoder in generation: single steps, Python loops and attention as references."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_seq2seq import VARIANTS, B, S, T, V, batch_of, loss_and_gradient, made, read

from jaxgen.errors import UserError
from jaxgen.generation.beam import beam_search
from jaxgen.generation.ensemble import ensemble, ensemble_carry
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.score import score
from jaxgen.models import stack_step
from jaxgen.models.seq2seq import reversed_rows
from jaxgen.models.seq2seq_decoding import attention_of, initial_carry_of, prefill_fn_of, step_fn_of

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
check = partial(np.testing.assert_allclose, **CLOSE)
QUICK = ("none", "fed")


def first_carry(model, params, batch):
    return initial_carry_of(model)(params, len(batch.sources), batch[:2])


@cache
def stepped(name, largest_table=2**20):
    """Carries and logits of single steps over the targets, beside the teacher-forced logits."""
    model, params = made(name)
    batch = batch_of()
    step_fn, carries = step_fn_of(model), [first_carry(model, params, batch)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack_step, "_LARGEST_TABLE", largest_table)
        ready, step, logits = step_fn.prepare(params), jax.jit(step_fn), []
    for t in range(T):
        carry, one = step(ready, carries[-1], batch.targets[:, t])
        carries.append(carry)
        logits.append(one)
    return carries, jnp.stack(logits, 1), read(model, params, batch)


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in VARIANTS]
)
def test_stepping_equals_reading_at_once(name):
    """And leaves what is known of the source as it is, with the batch first everywhere."""
    carries, logits, expected = stepped(name)
    check(logits, expected)
    jax.tree.map(np.testing.assert_array_equal, carries[0].memory, carries[-1].memory)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(carries)} == {B}
    assert jax.tree.structure(carries[0]) == jax.tree.structure(carries[-1])


@pytest.mark.parametrize("name", ["fed", pytest.param("scaled")])
def test_stepping_without_the_folded_table(name):
    _, logits, expected = stepped(name, 0)
    check(logits, expected)


def test_a_step_takes_the_parameters_unprepared_too():
    model, params = made("fed")
    carries, logits, _ = stepped("fed")
    carry, one = jax.jit(step_fn_of(model))(params, carries[0], batch_of().targets[:, 0])
    check(one, logits[:, 0])
    jax.tree.map(check, carry, carries[1])


@pytest.mark.parametrize("name", ["fed", pytest.param("general")])
def test_a_padded_prefix_is_read_in_one_pass(name):
    """Rows of 0 to T tokens: their carries are those of as many steps."""
    model, params = made(name)
    carries, logits, _ = stepped(name)
    lengths = jnp.asarray([T, 0, 3, 1], jnp.int32)
    mask = jnp.arange(T) < lengths[:, None]
    prefill = jax.jit(prefill_fn_of(model))
    end, ours = prefill(params, carries[0], batch_of().targets[:, :-1], mask)
    for row, length in enumerate(lengths):
        check(ours[row, :length], logits[row, :length])
        of_row = lambda carry: jax.tree.map(lambda x: x[row], carry)  # noqa: B023, E731
        jax.tree.map(check, of_row(end), of_row(carries[length]))


def next_logits(model, params, batch, texts, count):
    """Logits after `count` tokens of each row's text, by reading all from the beginning."""
    width = T + 1 - texts.shape[1]
    targets = np.pad(texts, ((0, 0), (0, width))).astype(np.int32)
    return np.asarray(read(model, params, batch._replace(targets=jnp.asarray(targets))))[
        :, count - 1
    ]


def log_softmax(logits):
    return np.asarray(jax.nn.log_softmax(logits, axis=-1))


GENERATED = ["fed", "additive", "adaptive"]


@pytest.mark.parametrize("name", GENERATED)
def test_greedy_generation_equals_a_python_loop(name):
    """Tokens, log-probabilities and the end at a stop token."""
    model, params = made(name)
    batch, bos = batch_of(), np.full((B, 1), 1, np.int32)
    text = bos
    for count in range(1, T):
        token = next_logits(model, params, batch, text, count).argmax(-1)
        text = np.concatenate([text, token[:, None].astype(np.int32)], axis=1)
    stop = int(text[0, 3])
    out = generate(
        step_fn_of(model),
        params,
        first_carry(model, params, batch),
        bos,
        None,
        0,
        SamplingParams(temperature=0.0, stop_tokens=[stop]),
        max_new_tokens=T - 1,
        prefill_fn=prefill_fn_of(model),
    )
    for row in range(B):
        expected = text[row, 1:].tolist()
        end = expected.index(stop) + 1 if stop in expected else len(expected)
        assert out.tokens[row, :end].tolist() == expected[:end]
        assert out.lengths[row] == end
    whole = np.asarray(
        read(model, params, batch._replace(targets=jnp.asarray(np.pad(text, ((0, 0), (0, 1))))))
    )
    chosen = np.take_along_axis(log_softmax(whole)[:, : T - 1], text[:, 1:, None], 2)[..., 0]
    for row, end in enumerate(out.lengths):
        check(out.logprobs[row, :end], chosen[row, :end])


def beam_by_hand(model, params, batch, width, count):
    """Texts and log-probabilities of a beam that no text leaves."""
    beams = [(np.full((B, 1), 1, np.int32), np.zeros(B))]
    for step in range(1, count + 1):
        totals = np.concatenate(
            [
                total[:, None] + log_softmax(next_logits(model, params, batch, text, step))
                for text, total in beams
            ],
            axis=1,
        )
        best = np.argsort(-totals, axis=1)[:, :width]
        texts = np.stack([text for text, _ in beams])
        beams = [
            (
                np.concatenate([texts[place // V, np.arange(B)], place[:, None] % V], axis=1),
                np.take_along_axis(totals, place[:, None], 1)[:, 0],
            )
            for place in best.T
        ]
    return beams


@pytest.mark.parametrize("name", GENERATED)
def test_beam_search_equals_a_python_loop(name):
    model, params = made(name)
    batch, width, count = batch_of(), 3, T - 2
    out = beam_search(
        step_fn_of(model),
        params,
        first_carry(model, params, batch),
        np.full((B, 1), 1, np.int32),
        num_beams=width,
        max_new_tokens=count,
        prefill_fn=prefill_fn_of(model),
    )
    for beam, (texts, logprobs) in enumerate(beam_by_hand(model, params, batch, width, count)):
        np.testing.assert_array_equal(out.tokens[:, beam], texts[:, 1:])
        check(out.logprobs[:, beam], logprobs)


def test_a_source_alone_is_continued_as_in_a_batch():
    """Without the padding of the batch, and in a loop that may be one kernel."""
    model, params = made("fed")
    batch = batch_of()
    run = partial(
        generate,
        step_fn_of(model),
        params,
        key=jax.random.split(jax.random.key(0), B),
        sampling=SamplingParams(),
        max_new_tokens=T,
    )
    whole = run(first_carry(model, params, batch), jnp.ones((B, 1), jnp.int32), None)
    row, length = 2, 3
    alone = (batch.sources[row : row + 1, :length], batch.source_lengths[row : row + 1])
    one = partial(run, key=jax.random.split(jax.random.key(0), B)[row : row + 1])(
        initial_carry_of(model)(params, 1, alone), jnp.ones((1, 1), jnp.int32), None
    )
    np.testing.assert_array_equal(one.tokens[0], whole.tokens[row])
    check(one.logprobs[0], whole.logprobs[row])


@pytest.mark.parametrize("name", ["fed", "adaptive"])
def test_a_score_is_the_loss(name):
    model, params = made(name)
    batch = batch_of()
    found = score(
        step_fn_of(model),
        params,
        first_carry(model, params, batch),
        batch.targets,
        batch.target_lengths,
        prefill_fn=prefill_fn_of(model),
    )
    aux = loss_and_gradient(model, params, batch)[1]
    check(-found.logprobs.sum(), aux.sums["nll"].total)


def test_an_ensemble_of_twice_the_same_model_is_the_model():
    model, params = made("additive")
    batch = batch_of()
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    carry = ensemble_carry(initial_carry_of(model), twice, B, batch[:2])
    step_fn = ensemble(step_fn_of(model), "average")
    found = score(step_fn, twice, carry, batch.targets, batch.target_lengths)
    aux = loss_and_gradient(model, params, batch)[1]
    check(-found.logprobs.sum(), aux.sums["nll"].total)


ATTENDING = [name for name in VARIANTS if name != "none"]


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in ATTENDING]
)
def test_attention_is_what_single_steps_attend_to(name):
    model, params = made(name)
    batch = batch_of()
    weights = np.asarray(attention_of(model, params, *batch[:3]))
    assert weights.shape == (B, T, S)
    real = np.arange(S) < np.asarray(batch.source_lengths)[:, None]
    check(weights.sum(-1), 1)
    assert not weights[~np.repeat(real[:, None], T, 1)].any()
    ready = step_fn_of(model).prepare(params)
    places = jax.jit(step_fn_of(model).attention)
    for t, carry in enumerate(stepped(name)[0][1:]):
        attended, mask = places(ready, carry)
        np.testing.assert_array_equal(mask, real)
        if model.reverse_source:  # the step has them in the order of reading
            attended = reversed_rows(attended, batch.source_lengths)
        check(attended, weights[:, t])


def test_attention_of_a_reversed_source_stands_in_its_own_order():
    backward, params = made("general")
    forward, _ = made("general", reverse_source=False)
    batch = batch_of()
    turned = reversed_rows(batch.sources, batch.source_lengths)
    ours = attention_of(backward, params, *batch[:3])
    theirs = attention_of(forward, params, turned, *batch[1:3])
    for row, length in enumerate(batch.source_lengths):
        check(ours[row, :, :length], theirs[row, :, :length][:, ::-1])


def test_a_model_without_attention_has_none_to_show():
    model, params = made("none")
    assert step_fn_of(model).attention is None
    with pytest.raises(UserError, match="`attention` of this model is none"):
        attention_of(model, params, *batch_of()[:3])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, r"`condition` of an encoder-decoder must be .* got none; give it the texts"),
        ((np.zeros((2, 3), int), np.ones(2, int)), r"shape \[4, S\] .* got \(2, 3\) and \(2,\)"),
        ((np.zeros((4, 3), int), [3, 0, 1, 1]), r"source lengths must be in \[1, 3\], got 0"),
        ((np.zeros((4, 3), int), [3, 4, 1, 1]), r"source lengths must be in \[1, 3\], got 4"),
        ((np.full((4, 3), 9), [3, 2, 1, 1]), r"source tokens must be in \[0, 8\], got 9"),
    ],
)
def test_sources_that_are_not_as_described_are_refused(condition, message):
    model, params = made("none")
    with pytest.raises(UserError, match=message):
        initial_carry_of(model)(params, B, condition)
