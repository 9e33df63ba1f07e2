"""Cleaning: each step by hand-worked examples, and what every step keeps to."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.config import LabelledData
from jaxgen.data.cleaning import make_cleaner
from jaxgen.data.stop_words import STOP_WORDS

STEPS = ("strip_html", "letters_only", "separate_punctuation", "drop_stop_words", "lowercase")
TEXT = st.text(
    st.sampled_from("aBé\u0301 ,.'’<>/&;3b\t\n하ع!😀-\u200d") | st.characters(codec="utf-8")
)


def clean(text: str, *steps: str) -> str:
    return make_cleaner(LabelledData(**dict.fromkeys(steps, True)))(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Bad.<br /><br />Worse.", "Bad. Worse."),
        ("<p class='x'>a</p><P>b</P>", "a b"),
        ("un<b>believ</b>able", "unbelievable"),
        ("an <i>excellent</i> film", "an excellent film"),
        ("Q&amp;A &#39;s &quot;x&quot; a&nbsp;b &#x2764;", 'Q&A \'s "x" a b ❤'),
        ("a &lt;b&gt; tag", "a <b> tag"),
        ("black&notorious AT&T R&D;", "black&notorious AT&T R&D;"),
        ("5 < 6 and 7 > 3, I <3 it", "5 < 6 and 7 > 3, I <3 it"),
        ("write to <me@example.org>", "write to <me@example.org>"),
        ("a<!-- a <b> comment -->b <!-- open", "a b <!-- open"),
        ("<!DOCTYPE html>text", "text"),
        ("no  change \t here\n", "no  change \t here\n"),
        ("<br>", ""),
    ],
)
def test_html(text: str, cleaned: str) -> None:
    assert clean(text, "strip_html") == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("It's 10/10, really!", "It s really"),
        ("정말 좋아요!! 10점 ㅋㅋ", "정말 좋아요 점 ㅋㅋ"),
        ("cafe\u0301, naïve", "cafe\u0301 naïve"),
        ("हिन्दी 123", "हिन्दी"),
        ("I ❤\ufe0f it", "I it"),
        ("123 !?", ""),
    ],
)
def test_letters(text: str, cleaned: str) -> None:
    assert clean(text, "letters_only") == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Good,bad?!", "Good , bad ? !"),
        ("Wait... what!!!", "Wait ... what !!!"),
        ("don't, it’s 'quoted'", "don't , it’s ' quoted '"),
        ("3.5 of 1,000.", "3.5 of 1,000 ."),
        ("(well-made)", "( well - made )"),
        ("cafe\u0301! 😀😀 좋아요.", "cafe\u0301 ! 😀😀 좋아요 ."),
        ("plain  text", "plain  text"),
    ],
)
def test_punctuation(text: str, cleaned: str) -> None:
    assert clean(text, "separate_punctuation") == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The film is NOT that good", "film good"),
        ("I don't like it, don’t you?", "like , ?"),
        ("theory thermometer", "theory thermometer"),
        ("a\u0301 i\u0301s e\u0301tat", "a\u0301 i\u0301s e\u0301tat"),
        ("i3 and it_is", "i3 it_is"),
        ("to be or not to be", ""),
    ],
)
def test_stop_words(text: str, cleaned: str) -> None:
    assert clean(text, "drop_stop_words") == cleaned


def test_the_steps_of_the_reference_system() -> None:
    text = "This film wasn't good.<br /><br />I gave it 3/10 &amp; left; DON'T go!"
    assert clean(text, "strip_html", "letters_only", "drop_stop_words", "lowercase") == (
        "film good gave left go"
    )


def test_nothing_is_done_unless_asked_for() -> None:
    text = "<br /> It's  A \n text; 3!"
    assert clean(text) == text
    assert clean(text, "lowercase") == "<br /> it's  a \n text; 3!"


def test_stop_words_are_a_sorted_list_of_small_letters() -> None:
    assert len(STOP_WORDS) == 179
    assert all(re.fullmatch(r"[a-z]+(?:'[a-z]+)?", word) for word in STOP_WORDS)


@given(TEXT)
def test_letters_are_what_unicode_calls_letters(text: str) -> None:
    """A character after another, as the Unicode database names them; no regular expression."""
    kept: list[str] = []
    for character in text:
        category = unicodedata.category(character)[0]
        letter = category == "L" or (category == "M" and kept and kept[-1] != " ")
        kept.append(character if letter else " ")
    expected = "".join(kept)
    cleaned = clean(text, "letters_only")
    assert cleaned.split() == expected.split()


@given(TEXT, st.sets(st.sampled_from(STEPS)))
def test_a_cleaned_text_is_clean(text: str, steps: set[str]) -> None:
    cleaned = clean(text, *steps)
    if "strip_html" not in steps:  # `&amp;lt;` is `&lt;`, and that is `<`.
        assert clean(cleaned, *steps) == cleaned
    if not steps:
        assert cleaned == text
    if "separate_punctuation" in steps and "drop_stop_words" not in steps:
        letters = re.sub(r"\s", "", cleaned)
        before = clean(text, *(steps - {"separate_punctuation"}))
        assert letters == re.sub(r"\s", "", before)


@pytest.mark.parametrize("step", STEPS[:4])
def test_a_long_text_is_cleaned_in_one_pass(step: str) -> None:
    """A search that began anew at each character would take hours here."""
    for unit in ("<", "<!--", "<a ", "&#1", "a'", "the\t", "\u0301"):
        clean(unit * (50_000 // len(unit)), step)
