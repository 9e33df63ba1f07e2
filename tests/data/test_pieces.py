"""Pieces join to the whole, stay small, and end where words end."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.pieces import repiece

TEXTS = st.lists(st.text(st.sampled_from("ab! \n\r\t\u00a0\x1cé"), max_size=60), max_size=6)


@given(TEXTS, st.integers(1, 20))
def test_pieces_join_to_the_whole_and_end_at_blanks(texts: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxgen.data.pieces.UNBROKEN_CHARACTERS", 4)
        pieces = list(repiece(texts, size))
    assert "".join(pieces) == "".join(texts)
    rest = "".join(texts)
    for piece, following in pairwise(pieces):
        at_blank = not piece[-1].isspace() and following[0] in " \n\t\r"
        # Cut elsewhere only where a long stretch offers no such place.
        assert at_blank or not re.search(r"\S[ \n\t\r]", rest[: 16 * size])
        assert at_blank or len(rest) >= 16 * size
        assert len(piece) <= 17 * size
        rest = rest.removeprefix(piece)


def test_short_texts_are_joined() -> None:
    assert list(repiece(["a b", " c", " d e"], size=8)) == ["a b c d", " e"]
