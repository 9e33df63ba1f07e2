"""Regular expressions over bytes and over the tokens of tokenizers, against Python's `re`."""

import itertools
import re
import sys

import numpy as np
import pytest

from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.data.regex_automaton import regex_automaton
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.generation.automata import over_tokens
from jaxgen.generation.utf8 import over_bytes

TEXT = "the cat sat on the mat\na naïve café\nabab aabb 12 1234\n" * 3
needs_library = pytest.mark.peers("interegular")


def accepts(automaton, tokens):
    """Whether the tokens are a text of the automaton, step by step."""
    state = 0
    for token in tokens:
        state = automaton.transitions[state, automaton.classes[token]]
        if state < 0:
            return False
    return bool(automaton.accepting[state])


def matches(expression, tokenizer, tokens):
    """What `re` says of the text of the tokens, which must hold whole characters."""
    text = tokenizer.decode(tokens)
    return "\ufffd" not in text and re.fullmatch(expression, text) is not None


def byte_automaton(expression):
    return over_bytes(*regex_automaton(expression))


def tokenizer_of(kind, size=None):
    return build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), [TEXT])


@needs_library
@pytest.mark.parametrize(
    "expression", ["a*b", "(ab|ba){1,2}", "[^a]b?", "a.*b", "é+|a?", "", "[è-ê€]b*", r"[(?=b]|\n"]
)
def test_bytes_match_what_re_matches(expression):
    table, accepting = byte_automaton(expression)
    for length in range(5):
        for characters in itertools.product("abéê\n", repeat=length):
            text, state = "".join(characters), 0
            for code in text.encode():
                state = table[state, code] if state >= 0 else -1
            wanted = re.fullmatch(expression, text) is not None
            assert (state >= 0 and accepting[state]) == wanted, (expression, text)


@needs_library
@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "word"])
@pytest.mark.parametrize("expression", ["(the |cat )*sat", "[a-z]+( [a-zé]+){1,2}", "[0-9]{2}|é.*"])
def test_tokens_match_what_re_matches(kind, expression):
    """Random walks: what the automaton says of tokens is what `re` says of their text."""
    tokenizer, rng = tokenizer_of(kind, 300 if kind == "bpe" else None), np.random.default_rng(1)
    end = tokenizer.vocab_size
    try:
        automaton = over_tokens(*byte_automaton(expression), tokenizer, end)
    except UserError:
        assert (kind, expression[0]) == ("word", "(")  # no blank ends a text of words
        return
    assert automaton.classes.shape == (end + 1,)
    found = 0
    for _ in range(40):
        tokens, state = [], 0
        for _ in range(6):
            legal = np.flatnonzero(automaton.transitions[state][automaton.classes] >= 0)
            assert legal.size  # never a dead end
            token = rng.choice(legal)
            state = automaton.transitions[state, automaton.classes[token]]
            if token == end:
                break
            tokens.append(int(token))
            wanted = matches(expression, tokenizer, tokens)
            assert bool(automaton.accepting[state]) == wanted
            found += wanted
    assert found
    for tokens in rng.integers(tokenizer.vocab_size, size=(200, 3)):
        silent = set(tokens.tolist()) & set(tokenizer.special_ids)
        wanted = matches(expression, tokenizer, tokens) and not silent
        assert accepts(automaton, tokens) == wanted


@needs_library
def test_the_end_token_of_a_tokenizer_ends_a_text_where_it_matches():
    tokenizer = tokenizer_of("word")
    automaton = over_tokens(*byte_automaton("the( cat| mat)*"), tokenizer, tokenizer.eos_id)
    the, cat = tokenizer.encode("the cat")
    end = tokenizer.eos_id
    assert accepts(automaton, [the, cat, cat, end])
    assert accepts(automaton, [the, end, end])
    assert not accepts(automaton, [end])
    assert not accepts(automaton, [the, end, cat])
    assert not accepts(automaton, [cat])


@needs_library
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(", "must be a regular expression .*got '\\('"),
        (r"(a)\1", "back-references"),
        ("(?=a)b", "look-around"),
        ("a(?<!b)", "look-around"),
        (r"\bfoo", "word boundaries"),
        ("^ab$", r"without .* `\^` and `\$`"),
        ("a[", "must be a regular expression"),
        ("[^\\w\\W]", "must match some text"),
    ],
)
def test_no_expression_says_why(expression, message):
    with pytest.raises(UserError, match=message):
        regex_automaton(expression)


@needs_library
def test_a_vocabulary_that_cannot_satisfy_it_says_so():
    with pytest.raises(UserError, match="accepts no text of this vocabulary"):
        over_tokens(*byte_automaton("Z+"), tokenizer_of("char"))
    with pytest.raises(UserError, match="give an `end_token`"):
        over_tokens(*byte_automaton("ab"), tokenizer_of("char"))


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "interegular", None)
    regex_automaton.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'jaxgen\[regex\]'"):
        regex_automaton("a")
