"""Cleaning of texts before they are tokenized; each step is a setting, and off by default."""

import html
import re
import string
import unicodedata
from collections.abc import Callable
from functools import cache

from jaxgen.config import LabelledData
from jaxgen.data.stop_words import STOP_WORDS

# A tag begins with a letter, so that "5 < 6 and 7 > 3" and "I <3 it" have none.
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)(?:[\s/][^<>]*)?>|<![A-Za-z][^<>]*>")
# Tags of letters within a word; all others set words apart.
_INLINE = {"a", "abbr", "b", "big", "code", "em", "font", "i", "mark", "s", "small", "span"}
_INLINE |= {"strong", "sub", "sup", "tt", "u"}
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]*);")
# Combining marks are no word characters to `re`: a letter that bears one is not the bare word.
_WORD = re.compile(r"(?<![\w\u0300-\u036f])\w++(?:['’]\w++)*+(?![\u0300-\u036f])")
_RUN = re.compile(r"([^\w\s])\1*")
_UNBROKEN = re.compile(r"\S+")
_APOSTROPHES = "'’"
_IN_NUMBERS = ".,"
_SHORT = 32
_MOST_REMEMBERED = 1 << 16


def make_cleaner(config: LabelledData) -> Callable[[str], str]:
    """The function that cleans a text as the settings say.

    The steps in their order: HTML is taken out, all but letters become spaces, spaces are put
    around punctuation, stop words are dropped, letters become small. White space is collapsed only
    in a text that one of the first four changed. A text of which nothing is left becomes "".
    """
    steps = [step for name, step in _STEPS.items() if getattr(config, name)]
    lowercase = config.lowercase

    def clean(text: str) -> str:
        for step in steps:
            changed = step(text)
            if changed != text:
                text = " ".join(changed.split())
        return text.lower() if lowercase else text

    return clean


def strip_html(text: str) -> str:
    """Take out tags and comments and turn entities into their characters.

    A tag becomes a space, as ``<br />`` between two sentences must, or nothing where it marks
    letters of a word, as ``<b>`` does. Only entities that end in a semicolon count.
    """
    if "<" in text:
        text = _TAG.sub(_between, _without_comments(text))
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def letters_only(text: str) -> str:
    """Turn everything but letters into spaces; letters of any script keep their marks."""
    kept = text.translate(_letters())
    if kept.isascii():
        return kept
    # A mark without a letter before it belonged to what is gone, for example to a symbol.
    return _UNBROKEN.sub(_from_first_letter, kept)


def separate_punctuation(text: str) -> str:
    """Put spaces around each run of one punctuation character.

    Apostrophes within a word (don't) and points and commas within a number (3.5) stay where they
    are, as do symbols that are no punctuation, such as emoji.
    """
    return " ".join(map(_with_spaces().__getitem__, text.split(" ")))


def drop_stop_words(text: str) -> str:
    """Take out English function words, in large or small letters; what else there is stays."""
    return " ".join(map(_without_stop_words().__getitem__, text.split(" ")))


_STEPS: dict[str, Callable[[str], str]] = {
    "strip_html": strip_html,
    "letters_only": letters_only,
    "separate_punctuation": separate_punctuation,
    "drop_stop_words": drop_stop_words,
}


def _between(tag: re.Match[str]) -> str:
    return "" if (tag[1] or "").lower() in _INLINE else " "


def _without_comments(text: str) -> str:
    """The text without ``<!-- -->``; one that is never closed is text."""
    parts, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        end = text.find("-->", start + 4)
        if end < 0:
            break
        parts += [text[position:start], " "]
        position = end + 3
    return "".join([*parts, text[position:]])


class _Letters(dict[int, int]):
    """A table for `str.translate` that is filled as characters occur."""

    def __missing__(self, code: int) -> int:
        kept = code if unicodedata.category(chr(code))[0] in "LM" else ord(" ")
        self[code] = kept
        return kept


@cache
def _letters() -> _Letters:
    return _Letters()


def _from_first_letter(letters: re.Match[str]) -> str:
    word, start = letters[0], 0
    while start < len(word) and unicodedata.category(word[start])[0] == "M":
        start += 1
    return word[start:]


class _Remembered(dict[str, str]):
    """What a function gave for short texts: words come again and again."""

    def __init__(self, function: Callable[[str], str]):
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> str:
        result = self._function(text)
        if len(text) < _SHORT:
            if len(self) >= _MOST_REMEMBERED:
                self.clear()
            self[text] = result
        return result


@cache
def _with_spaces() -> _Remembered:
    return _Remembered(lambda text: _RUN.sub(_spaced, text))


@cache
def _without_stop_words() -> _Remembered:
    return _Remembered(lambda text: _WORD.sub(_unless_stop_word, text))


def _spaced(run: re.Match[str]) -> str:
    character, text = run[1], run.string
    if character not in string.punctuation and unicodedata.category(character)[0] != "P":
        return run[0]
    if len(run[0]) == 1:
        around = text[run.start() - 1 : run.start()] + text[run.end() : run.end() + 1]
        if len(around) == 2 and (
            (character in _APOSTROPHES and around.isalnum())
            or (character in _IN_NUMBERS and around.isdecimal())
        ):
            return run[0]
    return f" {run[0]} "


def _unless_stop_word(word: re.Match[str]) -> str:
    return "" if word[0].lower().replace("’", "'") in STOP_WORDS else word[0]
