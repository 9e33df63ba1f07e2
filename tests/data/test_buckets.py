"""Length buckets: least padding, each row once an epoch, few shapes, and nothing but arguments."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.config import TrainingConfig
from jaxgen.data import buckets as module
from jaxgen.data.bucket_order import BucketOrder
from jaxgen.data.buckets import (
    BucketedRows,
    LabelDropout,
    batches_by_length,
    bucket_lengths,
)
from jaxgen.data.ragged import LabelledBatch, Ragged
from jaxgen.errors import UserError
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.trainable import BatchSource

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def numbered(lengths: list[int]) -> Ragged:
    """Rows that begin with their number, and go on with it, counted from 1."""
    return Ragged.from_rows([[number] * length for number, length in enumerate(lengths, 1)])


def total_padding(lengths: list[int], padded: tuple[int, ...]) -> int:
    return sum(min(p for p in padded if p >= length) - length for length in lengths)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=12), st.integers(1, 5))
def test_no_other_buckets_need_less_padding(lengths: list[int], count: int) -> None:
    padded = bucket_lengths(np.array(lengths), count)
    lengths = [max(length, 1) for length in lengths]
    assert len(padded) <= count
    assert padded[-1] == max(lengths)
    assert list(padded) == sorted({*padded})
    others = [
        (*chosen, max(lengths))
        for size in range(count)
        for chosen in combinations(sorted({*lengths} - {max(lengths)}), size)
    ]
    assert total_padding(lengths, padded) == min(total_padding(lengths, p) for p in others)


def test_bucket_lengths_by_hand() -> None:
    lengths = np.array([2, 2, 2, 3, 9, 10])
    assert bucket_lengths(lengths, 1) == (10,)
    assert bucket_lengths(lengths, 2) == (3, 10)  # pads 3 + 1
    assert bucket_lengths(lengths, 9) == (2, 3, 9, 10)


def test_many_lengths_are_thinned_to_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).geometric(0.01, 3000)
    exact = bucket_lengths(lengths, 5)
    monkeypatch.setattr(module, "MOST_CANDIDATES", 64)
    thinned = bucket_lengths(lengths, 5)
    assert thinned[-1] == exact[-1] == lengths.max()
    least, most = (total_padding(lengths.tolist(), padded) for padded in (exact, thinned))
    assert least <= most <= 1.1 * least


def test_bad_lengths_and_counts_are_named() -> None:
    with pytest.raises(UserError, match="`buckets` must be at least 1, got 0"):
        bucket_lengths(np.array([3]), 0)
    with pytest.raises(UserError, match="no rows to batch"):
        bucket_lengths(np.array([], np.int64), 2)
    rows = numbered([2, 7, 3])
    with pytest.raises(UserError, match=r"at most 4 tokens.*got one of 7; cut them first"):
        BucketedRows(rows, None, 2, (2, 4))
    with pytest.raises(UserError, match="got one of 7"):
        batches_by_length(rows, None, 2, (2, 4))
    with pytest.raises(UserError, match="no rows to batch"):
        BucketedRows(numbered([]), None, 2, (2, 4))
    with pytest.raises(ValueError, match="blocks of 3 batches, 2 a step"):
        BucketedRows(rows, None, 2, (7,), block=3, accumulate_steps=2)
    with pytest.raises(ValueError, match="must rise"):
        BucketedRows(rows, None, 2, (7, 4))
    with pytest.raises(ValueError, match="2 labels of 3 rows"):
        BucketedRows(rows, np.array([0, 1]), 2, (7,))


def whole_epoch(source: BucketedRows, epoch: int) -> list[LabelledBatch]:
    """Every batch of an epoch, read as far as one shape goes."""
    batches: list[LabelledBatch] = []
    while len(batches) < source.batches_per_epoch:
        count = source.same_shape(epoch, len(batches))
        assert count >= 1
        read = source.read(epoch, len(batches), count)
        batches += [LabelledBatch(*(leaf[i] for leaf in read)) for i in range(count)]
    assert len(batches) == source.batches_per_epoch
    return batches


def same(one: LabelledBatch, other: LabelledBatch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(
    LENGTHS, *[st.integers(1, 4) for _ in range(4)], st.integers(0, 2**32 - 1), st.integers(0, 3)
)
def test_each_row_comes_once_an_epoch(
    lengths: list[int],
    size: int,
    count: int,
    accumulate: int,
    steps: int,
    seed: int,
    epoch: int,
) -> None:
    rows, padded = numbered(lengths), bucket_lengths(np.array(lengths), count)
    labels = np.arange(len(lengths)) + 1
    source = BucketedRows(
        rows, labels, size, padded, seed, accumulate * steps, accumulate_steps=accumulate
    )
    batches = whole_epoch(source, epoch)
    seen = []
    for batch in batches:
        real = batch.weights == 1
        seen += batch.tokens[real, 0].tolist()
        np.testing.assert_array_equal(batch.labels[real], batch.tokens[real, 0])
        for tokens, length, weight in zip(batch.tokens, batch.lengths, batch.weights, strict=True):
            assert weight in (0, 1)
            number = int(tokens[0])
            assert length == (lengths[number - 1] if weight else 0)
            assert tokens.tolist() == [number] * length + [0] * (len(tokens) - length)
        assert not batch.tokens[~real].any()
        assert not batch.labels[~real].any()
    assert sorted(seen) == [*range(1, len(lengths) + 1)]
    check_steps(source, batches, size, count, accumulate)


def check_steps(
    source: BucketedRows, batches: list[LabelledBatch], size: int, count: int, accumulate: int
) -> None:
    # A step has one shape and at least one row; only one step of the epoch is incomplete.
    assert len(batches) % accumulate == 0
    grouped = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    assert all(len({batch.tokens.shape for batch in step}) == 1 for step in grouped)
    weights = [sum(batch.weights.sum() for batch in step) for step in grouped]
    assert min(weights) > 0
    assert sum(weight < size * accumulate for weight in weights) <= 1
    rows = sum(int(weight) for weight in weights)
    assert len(batches) == accumulate * -(-rows // (size * accumulate))

    # The shapes that are named are those that come.
    named = [tuple((leaf.shape, leaf.dtype) for leaf in shape) for shape in source.shapes]
    come = {tuple((leaf.shape, leaf.dtype) for leaf in batch) for batch in batches}
    assert len(named) == len(come) <= count
    assert {*named} == come


@settings(max_examples=25)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 4), st.data())
def test_any_slice_agrees_with_the_whole(
    lengths: list[int], size: int, count: int, data: st.DataObject
) -> None:
    rows, padded = numbered(lengths), bucket_lengths(np.array(lengths), count)

    def fresh() -> BucketedRows:
        return BucketedRows(rows, None, size, padded, seed=5, block=2)

    source = fresh()
    whole = {epoch: whole_epoch(source, epoch) for epoch in (0, 1)}
    for _ in range(3):  # any order of reading, from this source or another
        epoch = data.draw(st.integers(0, 1))
        first = data.draw(st.integers(0, source.batches_per_epoch - 1))
        number = data.draw(st.integers(1, source.same_shape(epoch, first)))
        part = slice(data.draw(st.integers(0, size - 1)), size)
        expected = LabelledBatch(
            *(
                np.stack(leaves)[:, part]
                for leaves in zip(*whole[epoch][first : first + number], strict=True)
            )
        )
        assert same(source.read(epoch, first, number, part), expected)
        assert same(fresh().read(epoch, first, number, part), expected)


def test_reads_beyond_the_epoch_or_one_shape_are_errors() -> None:
    source = BucketedRows(numbered([1, 1, 5, 5]), None, 2, (1, 5))
    assert source.same_shape(0, 0) == 1
    with pytest.raises(ValueError, match="several buckets"):
        source.read(0, 0, 2)
    for first, count in ((1, 2), (2, 1), (-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="of 2"):
            source.read(0, first, count)


def test_epochs_and_seeds_differ_and_the_order_stays_what_it_was() -> None:
    buckets = np.tile([0, 0, 1], 20)

    def order(seed: int, epoch: int) -> list[int]:
        order = BucketOrder(buckets, (10, 10), seed=seed)
        read = [order.read(epoch, first, 1)[0] for first in range(order.batches_per_epoch)]
        return np.concatenate(read).ravel().tolist()

    orders = [tuple(order(seed, epoch)) for seed in (0, 1, 2**32 - 1) for epoch in range(3)]
    assert len({*orders}) == 9
    # A run that goes on, on another machine or with another NumPy, needs the same order.
    assert order(3, 4)[:10] == [21, 39, 37, 25, 6, 40, 28, 19, 4, 48]


def test_blocks_have_one_shape_and_are_mixed() -> None:
    order = BucketOrder(np.repeat([0, 1, 2, 3], 12), (1, 1, 1, 1), seed=1, block=3)
    for epoch in range(4):
        padded = [order.read(epoch, first, 1)[1] for first in range(48)]
        blocks = [padded[i : i + 3] for i in range(0, 48, 3)]
        assert all(len({*block}) == 1 for block in blocks)
        # Not one length after the other.
        assert sum(a != b for a, b in pairwise(blocks)) > 3
        # Neighbouring blocks of one length are one run.
        run = next((i for i in range(48) if padded[i] != padded[0]), 48)
        assert order.same_shape(epoch, 0) == run


def test_training_reads_all_rows_in_steps_of_one_shape() -> None:
    lengths = [2, 3, 3, 5, 7, 7, 8, 2, 3, 7] * 5
    source = BucketedRows(numbered(lengths), None, 3, (3, 8), 2, block=4, accumulate_steps=2)
    config = TrainingConfig(accumulate_steps=2, steps_per_dispatch=3, epochs=2, batch_size=3)
    schedule = StepSchedule(source, config)
    assert schedule.total == 2 * schedule.epoch_steps == 2 * 9  # 50 rows, 6 a step
    blank = {batch.tokens.shape for batch in schedule.blank_batches()}
    assert blank == {(3, 2, 3, 3), (3, 2, 3, 8)}
    step, seen = 0, []
    while step < schedule.total:
        length = schedule.length(step, 3)
        batches = schedule.read(step, length)
        assert batches.tokens.shape in blank
        assert (batches.weights[:length].sum(axis=(1, 2)) > 0).all()
        seen += batches.tokens[..., 0][batches.weights == 1].tolist()
        step += length
    assert sorted(seen) == sorted(2 * [*range(1, 51)])


def test_rows_left_over_go_up() -> None:
    # Three of length 1 and batches of two: the third shares a batch with one of the longer rows.
    source = BucketedRows(numbered([1, 1, 1, 4, 4]), None, 2, (1, 4))
    for epoch in range(4):
        batches = whole_epoch(source, epoch)
        assert sorted(batch.tokens.shape[1] for batch in batches) == [1, 4, 4]
        longer = [batch for batch in batches if batch.tokens.shape[1] == 4]
        assert sorted(np.concatenate([b.lengths[b.weights == 1] for b in longer])) == [1, 4, 4]
    # Too few for a batch of their own: no such shape. Lengths that nothing needs do not come.
    few = BucketedRows(numbered([1, 4, 4]), None, 4, (1, 4, 9))
    assert [shape.tokens.shape for shape in few.shapes] == [(4, 4)]


def test_labels_of_several_classes_and_none() -> None:
    several = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]], np.float64)
    source = BucketedRows(numbered([2, 2, 2]), several, 4, (2,))
    batch = source.read(0, 0, 1)
    assert batch.labels.dtype == source.shapes[0].labels.dtype == np.float32
    assert batch.labels.shape == (1, 4, 3)
    np.testing.assert_array_equal(batch.labels[0, :3], several[batch.tokens[0, :3, 0] - 1])
    np.testing.assert_array_equal(batch.labels[0, 3], 0)
    none = BucketedRows(numbered([2, 2]), None, 2, (2,)).read(0, 0, 1).labels
    assert none.dtype == np.int32
    np.testing.assert_array_equal(none, [[0, 0]])
    assert isinstance(source, BatchSource)


def test_an_empty_row_is_real_and_has_no_tokens() -> None:
    batch = BucketedRows(numbered([0, 3]), None, 2, (1, 3)).read(0, 0, 1)
    assert sorted(batch.lengths[0]) == [0, 3]
    assert batch.weights.tolist() == [[1, 1]]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 5), st.integers(1, 4))
def test_evaluation_reads_each_row_once_in_its_bucket(
    lengths: list[int], size: int, count: int
) -> None:
    padded = bucket_lengths(np.array([*lengths, 12]), count)
    rows, labels = numbered(lengths), np.arange(len(lengths))
    found = np.full(len(lengths), -1)
    for indexes, batch in batches_by_length(rows, labels, size, padded):
        number, length = len(indexes), batch.tokens.shape[1]
        assert batch.tokens.shape[0] == size
        assert batch.weights.tolist() == [1] * number + [0] * (size - number)
        assert not batch.lengths[number:].any()
        assert not batch.tokens[number:].any()
        assert (found[indexes] == -1).all()
        found[indexes] = batch.labels[:number]
        for index, tokens, own in zip(indexes.tolist(), batch.tokens, batch.lengths, strict=False):
            assert length == min(p for p in padded if p >= lengths[index])
            assert own == lengths[index]
            assert tokens.tolist() == rows.row(index).tolist() + [0] * (length - lengths[index])
    np.testing.assert_array_equal(found, labels)


def test_dropped_labels_are_a_function_of_seed_epoch_and_row() -> None:
    rows = Ragged.from_rows([[n] * (1 + n % 3) for n in range(400)])
    labels = np.arange(400, dtype=np.int32) % 5

    def read(seed: int, epoch: int, batch_size: int) -> dict[int, int]:
        """The label that each row comes with, by the row's tokens."""
        source = BucketedRows(
            rows, labels, batch_size, [2, 3], seed=seed, label_dropout=LabelDropout(0.25, null=5)
        )
        batches = [source.read(epoch, place, 1) for place in range(source.batches_per_epoch)]
        return {
            int(tokens[0]): int(label)
            for batch in batches
            for tokens, label, weight in zip(
                batch.tokens[0], batch.labels[0], batch.weights[0], strict=True
            )
            if weight
        }

    first = read(0, 0, 8)
    dropped = {row for row, label in first.items() if label == 5}
    assert all(label in (5, row % 5) for row, label in first.items())
    assert 60 < len(dropped) < 140  # 100 +- 8.7: outside with probability 4e-6
    assert read(0, 0, 16) == first
    assert {row for row, label in read(0, 1, 8).items() if label == 5} != dropped
    assert {row for row, label in read(1, 0, 8).items() if label == 5} != dropped
