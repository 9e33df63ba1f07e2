"""Constrained texts against brute force, and UTF-8 against Python's decoder."""

import codecs
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation.toy_models import log_softmax, lstm_carry, lstm_params, lstm_prefill, lstm_step
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.generation.automata import make_automaton
from jaxgen.generation.beam import beam_search
from jaxgen.generation.constrained import (
    ConstrainedParams,
    ConstrainedStep,
    constrained,
    constrained_carry,
    constrained_prefill,
)
from jaxgen.generation.ensemble import ensemble, ensemble_carry
from jaxgen.generation.generate import generate
from jaxgen.generation.guidance import GuidedCarry, guided
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.score import score
from jaxgen.generation.utf8 import utf8_automaton, utf8_transitions

V = 4
PARAMS = lstm_params(jax.random.key(2), V)
# (01)*2 with a way into a trap by 3, from which nothing is accepted.
TABLE = np.array([[1, -1, 2, 3], [-1, 0, -1, 3], [-1, -1, -1, -1], [3, 3, 3, 3]])
ACCEPTING = np.array([False, False, True, False])
ENDING = make_automaton(TABLE, ACCEPTING, V)
# 0 and 1 in turn, for ever.
TURNS = make_automaton(np.array([[1, 1, -1, -1], [-1, 0, 2, -1], [0, -1, -1, 2]]), np.ones(3, bool))
FAST = jax.jit(lstm_step)
PROMPT = np.array([[3, 1], [2, 0]])


def walk(automaton, tokens, state=0):
    """The state after some tokens, or -1."""
    for token in tokens:
        if state >= 0:
            state = automaton.transitions[state, automaton.classes[token]]
    return int(state)


def accepted(automaton, tokens):
    state = walk(automaton, tokens)
    return state >= 0 and bool(automaton.accepting[state])


def carry(batch_size=2, free_tokens=2):
    return constrained_carry(lstm_carry(batch_size), batch_size, free_tokens)


def reference(prompt, text, automaton, params=PARAMS):
    """Log-probabilities of the tokens of a text that the automaton accepts so far."""
    state, model, found = 0, lstm_carry(1), []
    for token in prompt:
        model, logits = FAST(params, model, np.array([token]))
    for token in text:
        legal = automaton.transitions[state][automaton.classes] >= 0
        row = np.zeros(len(legal))
        row[:V] = np.asarray(logits[0], np.float64)
        found.append(log_softmax(np.where(legal, row, -np.inf))[token])
        state = walk(automaton, [token], state)
        model, logits = FAST(params, model, np.array([min(token, V - 1)]))
    return found


def test_the_trap_is_forbidden_and_the_end_token_comes_where_nothing_else_may():
    assert ENDING.classes.shape == (V + 1,)
    for length in range(6):
        for text in itertools.product(range(V + 1), repeat=length):
            ended = sum(token == V for token in text)
            body, end = text[: length - ended], text[length - ended :]
            words = [body[i : i + 2] for i in range(0, len(body) - 1, 2)]
            wanted = body[-1:] == (2,) and len(body) % 2 == 1 and set(words) <= {(0, 1)}
            assert accepted(ENDING, text) == (wanted and set(end) <= {V})


def test_an_end_token_of_the_vocabulary_ends_texts_in_accepting_states():
    automaton = make_automaton(np.array([[1, -1, 0], [-1, 0, 0]]), np.array([True, False]), 2)
    assert accepted(automaton, [])
    for text, wanted in (([2, 2], True), ([0, 2], False), ([0, 1, 2], True), ([2, 0], False)):
        assert accepted(automaton, text) == wanted


@given(st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_automata_accept_what_their_tables_do_and_have_no_dead_ends(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    table = rng.integers(-1, size, size=(size, 3))
    accepting = rng.random(size) < 0.4
    try:
        automaton = make_automaton(table, accepting, 3)
    except UserError:
        automaton = None
    for length in range(5):
        for text in itertools.product(range(3), repeat=length):
            state = 0
            for token in text:
                state = table[state, token] if state >= 0 else -1
            wanted = state >= 0 and bool(accepting[state])
            assert wanted == (automaton is not None and accepted(automaton, text))
    if automaton is not None:
        assert (automaton.transitions >= 0).any(axis=1).all()
        reaching = np.array(automaton.accepting)
        for _ in reaching:
            reaching |= (reaching[automaton.transitions] & (automaton.transitions >= 0)).any(1)
        assert reaching.all()


@pytest.mark.parametrize("automaton", [ENDING, TURNS])
def test_generated_texts_are_legal_and_their_log_probabilities_those_of_the_rest(automaton):
    run, free = constrained(lstm_step, automaton), {"max_new_tokens": 7}
    stops = SamplingParams(stop_tokens=[V]) if automaton is ENDING else None
    prompts, keys = np.tile(PROMPT, (8, 1)), 3
    out = generate(run, PARAMS, carry(16), prompts, None, keys, stops, **free)
    read = generate(
        run,
        PARAMS,
        carry(16),
        prompts,
        None,
        keys,
        stops,
        **free,
        prefill_fn=constrained_prefill(lstm_prefill, automaton),
    )
    assert read.tokens.tolist() == out.tokens.tolist()
    seen = set()
    for row in range(16):
        text = out.tokens[row, : out.lengths[row]].tolist()
        state = walk(automaton, text)
        assert state >= 0
        assert out.carry.state[row] == walk(automaton, text[:-1])
        wanted = reference(prompts[row], text, automaton)
        np.testing.assert_allclose(out.logprobs[row, : len(text)], wanted, rtol=1e-4, atol=1e-5)
        assert (text[-1] == V) == bool(out.finished[row])
        seen.add(tuple(text))
    assert len(seen) > 4


@pytest.mark.slow
def test_beams_end_by_the_automaton():
    """They are the best of all texts that it accepts."""
    texts = [(0, 1) * count + (2, V) for count in range(3)]
    out = beam_search(
        constrained(lstm_step, ENDING),
        PARAMS,
        carry(),
        PROMPT,
        num_beams=4,
        max_new_tokens=6,
        stop_tokens=[V],
        length_penalty=0.0,
    )
    for row in range(2):
        scores = {text: sum(reference(PROMPT[row], text, ENDING)) for text in texts}
        scores[0, 1, 0, 1, 0, 1] = sum(reference(PROMPT[row], (0, 1, 0, 1, 0, 1), ENDING))
        for place, text in enumerate(sorted(scores, key=lambda text: -scores[text])):
            assert out.tokens[row, place, : len(text)].tolist() == list(text)
            np.testing.assert_allclose(out.logprobs[row, place], scores[text], rtol=1e-4, atol=1e-5)
        assert (out.logprobs[row, :4] > -np.inf).sum() == len(scores)


def test_scores_are_of_legal_texts_and_minus_infinity_where_a_text_is_not():
    texts = np.array([[3, 0, 1, 2, V], [1, 0, 1, 0, 1], [2, 0, 0, 1, 2]])
    found = score(constrained(lstm_step, ENDING), PARAMS, carry(3, 1), texts).logprobs
    read = constrained_prefill(lstm_prefill, ENDING)
    also = score(constrained(lstm_step, ENDING), PARAMS, carry(3, 1), texts, prefill_fn=read)
    np.testing.assert_allclose(found, also.logprobs, rtol=1e-5, atol=1e-6)
    for row in range(2):
        wanted = reference(texts[row, :1], texts[row, 1:], ENDING)
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)
    assert found[2].tolist()[1] == -np.inf
    assert not np.isnan(found).any()


def test_rows_begin_after_prompts_of_their_own_length():
    """And a row alone is the same row in a batch."""
    prompts, lengths = np.array([[3, 3, 1], [0, 1, 0], [3, 0, 0]]), np.array([3, 2, 1])
    keys, free = jax.random.split(jax.random.key(1), 3), np.array([3, 0, 1])
    run = constrained(lstm_step, TURNS)
    whole = generate(run, PARAMS, carry(3, free), prompts, lengths, keys, max_new_tokens=6)
    for row in range(3):
        text = whole.tokens[row].tolist()
        begun = prompts[row, free[row] : lengths[row]].tolist()
        assert walk(TURNS, begun + text) >= 0
        one = slice(row, row + 1)
        alone = generate(
            run,
            PARAMS,
            carry(1, free[one]),
            prompts[one],
            lengths[one],
            keys[one],
            max_new_tokens=6,
        )
        assert alone.tokens[0].tolist() == text


def test_another_automaton_of_the_same_size_does_not_retrace_as_a_parameter():
    traces = []

    def counted(params, carry, tokens):
        traces.append(1)
        return lstm_step(params, carry, tokens)

    other = TURNS._replace(transitions=np.roll(TURNS.transitions, 1, axis=1))
    counts = []
    for automaton in (TURNS, other):
        params = ConstrainedParams(PARAMS, automaton)
        out = generate(ConstrainedStep(counted), params, carry(), PROMPT, None, 0, max_new_tokens=5)
        counts.append(len(traces))
        assert all(walk(automaton, row) >= 0 for row in out.tokens.tolist())
    assert counts[0] == counts[1]
    assert constrained(counted, TURNS) == constrained(counted, TURNS._replace())
    assert constrained(counted, TURNS) != constrained(counted, other)


@pytest.mark.slow
def test_it_composes_with_guidance_and_ensembles_and_transformations():
    """Guidance of an ensemble, constrained: all three in one carry, by rows."""
    stacked = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), PARAMS)
    run = constrained(guided(ensemble(lstm_step)), TURNS)
    keys = jax.random.split(jax.random.key(1), 2)

    def start(rows):
        inner = ensemble_carry(lambda *_: lstm_carry(rows * 2), stacked, rows * 2, weights=[2, -1])
        inner = jax.tree.map(lambda x: x.reshape(rows, 2, *x.shape[1:]), inner)
        return constrained_carry(GuidedCarry(inner, jnp.full((rows, 1), 2.0)), rows, 2)

    def texts(prompts, keys):
        carry = start(prompts.shape[0])
        return generate(
            run, stacked, carry, prompts, None, keys, max_new_tokens=5, num_logprobs=None
        ).tokens

    found = texts(PROMPT, keys).tolist()
    assert all(walk(TURNS, row) >= 0 for row in found)
    assert jax.jit(texts)(PROMPT, keys).tolist() == found
    one = jax.vmap(lambda prompt, key: texts(prompt[None], key[None])[0])
    assert one(PROMPT, keys).tolist() == found
    # The other way round: what is impossible under one of the parts stays impossible.
    other = guided(constrained(lstm_step, TURNS))
    inner = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), carry(4))
    begin = GuidedCarry(inner, jnp.array([[2.0], [-1.0]]))
    out = generate(other, PARAMS, begin, PROMPT, None, keys, max_new_tokens=5)
    assert all(walk(TURNS, row) >= 0 for row in out.tokens.tolist())
    assert np.isfinite(out.logprobs).all()


def is_beginning_of_utf8(data):
    """Whether more bytes make it a text; Python's incremental decoder refuses some too late."""
    for rest in (code * count for code in (b"\x80", b"\xbf") for count in range(4)):
        try:
            (data + rest).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def test_utf8_is_what_pythons_decoder_takes():
    """After every valid prefix at the boundaries of the ranges, each of the 256 bytes."""
    table, _ = utf8_transitions()
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1]
    edges += [0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    prefixes = [b""]
    for prefix in prefixes:
        state = 0
        for code in prefix:
            state = table[state, code]
        for code in range(256):
            assert (table[state, code] >= 0) == is_beginning_of_utf8(prefix + bytes([code]))
            if len(prefix) < 3 and code in edges and table[state, code] >= 0:
                prefixes.append(prefix + bytes([code]))
    assert len(prefixes) > 200


def test_utf8_has_each_code_point_once():
    """1,112,064 ways from between characters to between characters, of the lengths they have."""
    table, _ = utf8_transitions()
    ways = np.array([[(row == target).sum() for target in range(8)] for row in table])
    counts, inside = [ways[0, 0]], ways[0, 1:]
    for _ in range(4):
        counts.append(inside @ ways[1:, 0])
        inside = inside @ ways[1:, 1:]
    assert counts == [0x80, 0x780, 0x10000 - 0x800 - 0x800, 0x100000, 0]


def test_a_byte_model_never_prints_a_broken_character():
    params = jax.random.normal(jax.random.key(0), (256, 256))
    run = constrained(lambda params, carry, tokens: (carry, params[tokens]), utf8_automaton())
    prompt = np.frombuffer("é".encode(), np.uint8).astype(np.int32)[None]
    for prompts in (prompt, prompt[:, :1], prompt[:, 1:]):  # a whole one; the halves
        start = constrained_carry((), 1)
        out = generate(run, params, start, prompts, None, 1, max_new_tokens=200)
        data = bytes(out.tokens[0].tolist())
        data = bytes(prompts[0].tolist()) * (prompts is not prompt[:, 1:]) + data
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(data.lstrip(b"\xa9"))
        assert len(set(text)) > 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5]], [True]), "must be whole numbers"),
        (([[1]], [True]), "each a state in .*from 1 to 1"),
        (([[0]], [1]), "`accepting` must be a boolean for each of the 1 states"),
        (([[0]], [False]), "accepts no text of this vocabulary"),
        (([[1], [-1]], [False, True]), "give an `end_token`.* or 1, one past the vocabulary"),
        (([[0]], [True], 2), r"`end_token` must be in \[0, 1\], got 2"),
    ],
)
def test_bad_automata_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make_automaton(*arguments)


def test_bad_input_is_named():
    for free, message in (
        ([-1, 0], "0 or more, got -1"),
        ([1, 2, 3], "one for each of the 2 rows"),
    ):
        with pytest.raises(UserError, match=message):
            carry(2, free)
    with pytest.raises(UserError, match=r"over the 4 tokens of the model .*, got one over 256"):
        generate(
            constrained(lstm_step, utf8_automaton()),
            PARAMS,
            carry(),
            PROMPT,
            None,
            0,
            max_new_tokens=2,
        )
