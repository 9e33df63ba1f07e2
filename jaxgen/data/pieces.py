"""Text in pieces of bounded size, cut only where every tokenizer ends a token."""

import re
from collections.abc import Iterable, Iterator

PIECE_CHARACTERS = 1 << 20
UNBROKEN_CHARACTERS = 256
"""BPE cuts a run of visible characters, or of blanks, into chunks of this length."""

# Words, BPE's pre-tokens and NFC's compositions all end between a visible character and a blank.
_LAST_WORD_END = re.compile(r".*\S(?=[ \n\t\r])", re.DOTALL)
_LONGEST_WORD = 16


def repiece(texts: Iterable[str], size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Yield the same text, all of `texts` joined, in pieces of about `size` characters.

    A tokenizer gives the pieces one after the other the same ids as the whole. The only exception
    is a run of 16 `size` characters without a blank after a word: it is cut all the same, to keep
    memory bounded. There BPE ends a token too, but no word ends.
    """
    pending = ""
    for text in texts:
        for start in range(0, len(text), size):
            pending += text[start : start + size]
            if len(pending) < size:
                continue
            if match := _LAST_WORD_END.match(pending):
                yield pending[: match.end()]
                pending = pending[match.end() :]
            elif len(pending) >= _LONGEST_WORD * size:
                end = _end_of_chunk(pending)
                yield pending[:end]
                pending = pending[end:]
    if pending:
        yield pending


def _end_of_chunk(text: str) -> int:
    """Where the last of BPE's chunks of unbroken text ends; without any, the end."""
    chunk = rf"\S{{{UNBROKEN_CHARACTERS}}}|\s{{{UNBROKEN_CHARACTERS}}}"
    return max((match.end() for match in re.finditer(chunk, text)), default=len(text))
