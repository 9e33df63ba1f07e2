"""Texts held to regular expressions, over characters, bytes, pieces and words."""

import re
import sys

import jax
import pytest
from generation.conftest import compile_fast  # noqa: F401
from generation.text_models import initial_carry
from generation.toy_models import lstm_params, lstm_prefill, lstm_step

from jaxgen.config import LanguageModelConfig, LanguageModelExperiment, TokenizerConfig
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.generation.text import TextModel
from jaxgen.tasks.language_model import LANGUAGE_MODEL
from jaxgen.tasks.matching import matching

pytestmark = pytest.mark.slow

TEXT = "I am happy.\nYou are sad, 7 of 10 é.\n" * 3


def tokenizer_of(kind: str) -> Tokenizer:
    size = 270 if kind == "bpe" else None
    config = TokenizerConfig(kind=kind, vocab_size=size, min_frequency=1)  # type: ignore[arg-type]
    return build_tokenizer(config, [TEXT])


def model_of(kind: str) -> TextModel:
    """A small model with random parameters."""
    tokenizer = tokenizer_of(kind)
    params = lstm_params(jax.random.key(5), tokenizer.vocab_size)
    return TextModel(params, None, tokenizer, lstm_step, lstm_prefill, initial_carry)


@pytest.mark.parametrize(
    ("kind", "expression"),
    [
        ("char", "(happy|sad)[.]"),
        ("byte", "[aé]{2}[.]"),
        ("bpe", "You are [a-z]{3,5}!"),
        ("word", "(happy[.]|sad,|am)( (am|are)){1,2}"),
    ],
)
def test_whole_texts_match(kind: str, expression: str) -> None:
    held = matching(model_of(kind), expression)
    samples = held.sample("I am", n=8, max_new_tokens=30, key=2)
    for sample in samples:
        text = sample.text.removeprefix(" ") if kind == "word" else sample.text
        assert sample.finished
        assert re.fullmatch(expression, text), text
    if kind == "word":  # the end is <eos>, a new line, which is no part of the text
        assert samples[0].tokens[-1] == held.tokenizer.eos_id


def test_a_text_that_is_cut_short_begins_a_match() -> None:
    sample = matching(model_of("byte"), "(é[.])+").sample("I", max_new_tokens=5)
    assert (sample.text, len(sample.tokens), sample.finished) == ("é.é", 5, False)


def test_byte_models_write_whole_characters_by_default() -> None:
    experiment = LanguageModelExperiment(model=LanguageModelConfig(hidden_size=4))
    for kind in ("byte", "bpe"):
        tokenizer = tokenizer_of(kind)
        files = {"tokenizer.json": tokenizer.backend.to_str()}
        lm = LANGUAGE_MODEL.load(experiment, files, {})
        assert (lm.constraint is not None) == (kind == "byte")


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("[a-", r"must be a regular expression without look-around.*got '\[a-'"),
        ("Привет", "must match some text of the model's 23 tokens, got 'Привет', which needs oth"),
        ("[^\\w\\W]", "must match some text, got"),
    ],
)
def test_bad_expressions_are_refused(expression: str, said: str) -> None:
    with pytest.raises(UserError, match=f"`regex` {said}"):
        matching(model_of("char"), expression)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "interegular", None)
    with pytest.raises(UserError, match=r"pip install 'jaxgen\[regex\]'"):
        matching(model_of("char"), "never asked before")
