"""The corpus that needs no network: the prose of the running Python's own documentation."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

from jaxgen.data.pieces import repiece

# Prose starts with a capital or a quoted name and ends as sentences end; code, grammar, tables,
# titles and signatures do not.
_PROSE = re.compile(r'["“]?[A-Z“"].*[.:?!)]["”]?', re.DOTALL)
_RARE = 3


@dataclass(frozen=True)
class EmbeddedText:
    """A part of the documentation's prose, cut between paragraphs; the same on each iteration."""

    text: str
    name = "the embedded corpus"
    documents = False

    @property
    def fingerprint(self) -> None:
        """It is never cached: it fits in memory."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of UTF-8."""
        return len(self.text.encode())

    @property
    def empty(self) -> bool:
        """Whether there is no text."""
        return self.nbytes == 0

    def cut(self, shares: Sequence[float]) -> "list[EmbeddedText]":
        """Consecutive parts with about these shares of the text, each of whole paragraphs."""
        ends = [0]
        for share in accumulate(shares[:-1]):
            end = self.text.find("\n\n", round(share * len(self.text)))
            ends.append(len(self.text) if end < 0 else end + 2)
        ends.append(len(self.text))
        return [EmbeddedText(self.text[a:b]) for a, b in pairwise(ends)]

    def __iter__(self) -> Iterator[str]:
        """Yield the text in pieces."""
        return repiece([self.text])


@cache
def embedded_text() -> EmbeddedText:
    """All of the prose: paragraphs of `pydoc_data.topics`, in the topics' order, not indented.

    Topics quote one another, so a paragraph counts only where it comes first; otherwise the
    held-out text would hold paragraphs that were trained on. A paragraph with a character that
    the whole has fewer than three times is left out, so that held-out text has no unknown ones.
    """
    from pydoc_data.topics import topics

    paragraphs = (
        textwrap.dedent(paragraph)
        for topic in sorted(topics)
        for paragraph in topics[topic].strip("\n").split("\n\n")
    )
    prose = list(dict.fromkeys(text for text in paragraphs if _PROSE.fullmatch(text)))
    counts = Counter("".join(prose))
    rare = {character for character, count in counts.items() if count < _RARE}
    return EmbeddedText("\n\n".join(text for text in prose if not rare & set(text)) + "\n")
