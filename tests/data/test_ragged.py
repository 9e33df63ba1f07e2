"""Rows end to end: what is taken, cut and padded agrees with plain lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.ragged import Ragged, rows_digest

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=7), max_size=6)


def lists(rows: Ragged) -> list[list[int]]:
    return [rows.row(index).tolist() for index in range(len(rows))]


@settings(max_examples=50)
@given(ROWS)
def test_rows_come_back(rows: list[list[int]]) -> None:
    ragged = Ragged.from_rows(iter(rows))
    assert lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert (ragged.ids.dtype, ragged.offsets.dtype) == (np.int32, np.int64)


def test_a_row_is_a_view_and_one_beyond_the_last_is_an_error() -> None:
    ragged = Ragged.from_rows([np.array([1, 2], np.uint8), [3]])
    assert np.shares_memory(ragged.row(0), ragged.ids)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="of 2"):
            ragged.row(index)


@settings(max_examples=50)
@given(ROWS.filter(len), st.data())
def test_taken_rows_are_those_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    indexes = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    taken = Ragged.from_rows(rows).take(np.array(indexes, np.int64))
    assert lists(taken) == [rows[index] for index in indexes]


@settings(max_examples=50)
@given(ROWS, st.integers(1, 8))
def test_cut_rows_keep_their_start_end_or_both(rows: list[list[int]], most: int) -> None:
    ragged = Ragged.from_rows(rows)
    tail = most // 2
    expected = {
        "start": [row[:most] for row in rows],
        "end": [row[-most:] for row in rows],
        "both": [
            row if len(row) <= most else row[: most - tail] + row[len(row) - tail :] for row in rows
        ],
    }
    for keep, cut in expected.items():
        assert lists(ragged.cut(most, keep)) == cut
    assert lists(ragged.cut(most)) == expected["start"]


def test_both_halves_of_an_odd_number_give_the_start_one_more() -> None:
    assert lists(Ragged.from_rows([range(9), range(5)]).cut(5, "both")) == [
        [0, 1, 2, 7, 8],
        [0, 1, 2, 3, 4],
    ]


@settings(max_examples=50)
@given(ROWS.filter(len), st.data())
def test_padded_rows_have_zeros_beyond_their_end(
    rows: list[list[int]], data: st.DataObject
) -> None:
    length = data.draw(st.integers(max(map(len, rows)), 9))
    indexes = data.draw(st.lists(st.integers(-1, len(rows) - 1), min_size=4, max_size=4))
    tokens, lengths = Ragged.from_rows(rows).padded(np.array(indexes).reshape(2, 2), length)
    expected = [[] if index < 0 else rows[index] for index in indexes]
    assert tokens.shape == (2, 2, length)
    assert (tokens.dtype, lengths.dtype) == (np.int32, np.int32)
    assert tokens.reshape(4, length).tolist() == [
        row + [0] * (length - len(row)) for row in expected
    ]
    assert lengths.reshape(4).tolist() == [len(row) for row in expected]


def test_a_row_too_long_is_not_cut_silently() -> None:
    with pytest.raises(ValueError, match="a row of 3 tokens in a batch of length 2"):
        Ragged.from_rows([[1], [1, 2, 3]]).padded(np.array([0, 1]), 2)


def test_the_digest_tells_rows_and_labels_apart_but_not_their_types() -> None:
    rows, labels = Ragged.from_rows([[1, 2], [3]]), np.array([0, 1], np.int32)
    same = Ragged(rows.ids.astype(np.int64), rows.offsets.astype(np.int32))
    digests = {
        rows_digest(rows),
        rows_digest(rows, labels),
        rows_digest(rows, labels[::-1]),
        rows_digest(rows, np.eye(2, dtype=np.float32)),
        rows_digest(Ragged.from_rows([[1], [2, 3]]), labels),
        rows_digest(Ragged.from_rows([[1, 2], [4]]), labels),
        rows_digest(Ragged.from_rows([[1, 2], [3], []]), labels),
    }
    assert len(digests) == 7
    assert rows_digest(rows, labels) == rows_digest(same, labels.astype(np.int64))
    # The same on every machine and in every version: it is compared with that of an earlier run.
    assert rows_digest(rows, labels) == "c91d8670e54aa657326cb5b055b66115"
