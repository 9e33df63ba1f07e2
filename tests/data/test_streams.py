"""Streams: contiguous rows, dense targets, every token evaluated once, documents reset."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.streams import TokenStream, evaluation_batches, windows
from jaxgen.data.tokens import TokenArray
from jaxgen.errors import UserError


def numbers(count: int) -> TokenArray:
    return TokenArray(np.arange(count, dtype=np.uint16))


@given(
    st.integers(1, 5), st.integers(1, 7), st.integers(0, 40), st.integers(0, 5), st.integers(1, 4)
)
def test_rows_are_contiguous_text(
    batch: int, length: int, more: int, epoch: int, size: int
) -> None:
    count = batch * length + 1 + more
    stream = TokenStream(numbers(count), batch, length)
    total = stream.batches_per_epoch
    assert total == (count - 1) // (batch * length)
    whole = stream.read(epoch, 0, total)["tokens"]
    assert whole.shape == (total, batch, length + 1)
    assert whole.dtype == np.int32
    # One window after the other, a row is one run of text, and the rows follow one another.
    inputs = whole[:, :, :-1].swapaxes(0, 1).reshape(-1)
    np.testing.assert_array_equal(inputs, inputs[0] + np.arange(batch * total * length))
    np.testing.assert_array_equal(whole[:, :, 1:], whole[:, :, :-1] + 1)
    assert whole.max() < count
    # Chunks of any size give the same windows: resuming needs (epoch, window) only.
    pieces = [
        stream.read(epoch, window, min(size, total - window))["tokens"]
        for window in range(0, total, size)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_the_tokens_left_out_change_with_the_epoch() -> None:
    stream = TokenStream(numbers(48), 2, 10)
    starts = [int(stream.read(epoch, 0, 1)["tokens"][0, 0, 0]) for epoch in range(20)]
    assert starts[0] == 0
    assert set(starts) == set(range(8))


def test_the_seed_moves_what_is_left_out_and_rows_are_read_apart() -> None:
    starts = {
        seed: int(TokenStream(numbers(48), 2, 10, seed=seed).read(0, 0, 1)["tokens"][0, 0, 0])
        for seed in range(8)
    }
    assert starts[0] == 0
    assert len(set(starts.values())) > 4
    stream = TokenStream(numbers(48), 4, 5, reset_id=7, seed=3)
    whole, part = stream.read(1, 0, 2), stream.read(1, 0, 2, slice(1, 3))
    for name in ("tokens", "resets"):
        np.testing.assert_array_equal(part[name], whole[name][:, 1:3])
        assert whole[name].shape[1:] == stream.shapes[0][name].shape
        assert whole[name].dtype == stream.shapes[0][name].dtype


def test_a_text_shorter_than_one_batch() -> None:
    with pytest.raises(
        UserError, match="has 32 tokens, but one batch of 4 sequences of 8 needs 33"
    ):
        TokenStream(numbers(32), 4, 8)
    assert TokenStream(numbers(33), 4, 8).batches_per_epoch == 1
    with pytest.raises(ValueError, match="batches 1 to 2 of 1"):
        TokenStream(numbers(33), 4, 8).read(0, 1, 1)["tokens"]


@given(st.integers(2, 80), st.integers(1, 6), st.integers(1, 9))
def test_evaluation_counts_every_token_once(count: int, batch: int, length: int) -> None:
    rows: list[list[int]] = [[] for _ in range(batch)]
    for parts in evaluation_batches(numbers(count), batch, length):
        tokens, mask = parts["tokens"], parts["mask"]
        assert (tokens.shape, mask.shape) == ((batch, length + 1), (batch, length))
        for row in range(batch):
            (kept,) = np.nonzero(mask[row])
            np.testing.assert_array_equal(kept, np.arange(len(kept)))
            np.testing.assert_array_equal(tokens[row, 1:][kept], tokens[row, :-1][kept] + 1)
            # The carry continues: each batch's inputs go on where the row's last batch ended.
            if rows[row] and len(kept):
                assert tokens[row, 0] == rows[row][-1]
            rows[row] += tokens[row, 1:][kept].tolist()
    assert list(chain.from_iterable(rows)) == list(range(1, count))


def test_nothing_to_evaluate() -> None:
    with pytest.raises(UserError, match="has 1 tokens and needs at least 2"):
        next(evaluation_batches(numbers(1), 2, 3))


@given(st.lists(st.integers(0, 2), min_size=13, max_size=60), st.integers(0, 3))
def test_resets_follow_the_ends_of_documents(ids: list[int], epoch: int) -> None:
    tokens = TokenArray(np.array(ids, np.uint8))
    # Where each position stands in the text, found through a text of distinct numbers.
    place = TokenStream(numbers(len(ids)), 3, 4)
    stream = TokenStream(tokens, 3, 4, reset_id=2)
    for window in range(stream.batches_per_epoch):
        position = place.read(epoch, window, 1)["tokens"][..., :-1]
        expected = [[[at > 0 and ids[at - 1] == 2 for at in row] for row in position[0].tolist()]]
        np.testing.assert_array_equal(stream.read(epoch, window, 1)["resets"], expected)
    total = stream.batches_per_epoch
    assert stream.read(epoch, 0, total)["resets"].shape == (total, 3, 4)

    batches = zip(
        evaluation_batches(numbers(len(ids)), 3, 4),
        evaluation_batches(tokens, 3, 4, reset_id=2),
        strict=True,
    )
    for positions, own in batches:
        position, mask, resets = positions["tokens"], positions["mask"], own["resets"]
        for at, real, reset in zip(position[:, :-1][mask], mask[mask], resets[mask], strict=True):
            assert reset == (real and at > 0 and ids[at - 1] == 2)
        assert not resets[~mask].any()


def test_windows_are_views() -> None:
    tokens = np.arange(20, dtype=np.int32)
    cut = windows(tokens, 6, 3)
    assert cut.tolist() == [[start + step for step in range(6)] for start in range(0, 15, 3)]
    assert np.shares_memory(cut, tokens)
