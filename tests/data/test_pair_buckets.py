"""Batches of pairs: least padding, each pair once an epoch, and nothing but arguments."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.config import PairData, TrainingConfig
from jaxgen.data.pair_buckets import (
    PairBatch,
    PairBatches,
    PairRows,
    PairShape,
    encoded_pairs,
    pair_shapes,
    pairs_by_shape,
    with_ends,
)
from jaxgen.data.ragged import Ragged
from jaxgen.errors import UserError
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.trainable import BatchSource

Lengths = list[tuple[int, int]]
LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.integers(2, 12)), min_size=1, max_size=40)
TOKENS = st.integers(1, 120)


def numbered(lengths: Lengths) -> PairRows:
    """Pairs whose tokens are their number, counted from 1, in the target beyond 100."""
    numbers = range(1, len(lengths) + 1)
    return PairRows(
        Ragged.from_rows([[n] * length for n, (length, _) in zip(numbers, lengths, strict=True)]),
        Ragged.from_rows(
            [[100 + n] * length for n, (_, length) in zip(numbers, lengths, strict=True)]
        ),
    )


def padded_tokens(lengths: Lengths, shapes: tuple[tuple[int, int], ...]) -> int:
    """Tokens with padding where each pair has the first shape that it fits in."""
    return sum(next(s + t for s, t in shapes if s >= a and t >= b) for a, b in lengths)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_no_other_rising_shapes_need_less_padding(lengths: Lengths, count: int) -> None:
    chosen = pair_shapes(numbered(lengths), count)
    longest = max(1, *(a for a, _ in lengths), 1), max(b for _, b in lengths)
    assert len(chosen) <= count
    assert chosen[-1] == longest
    assert all(a[0] <= b[0] and a[1] <= b[1] and a != b for a, b in pairwise(chosen))
    cells = [(s, t) for s in range(1, longest[0] + 1) for t in range(1, longest[1] + 1)]
    chains = (
        (*chain, longest)
        for size in range(count)
        for chain in combinations(sorted(cells), size)
        if all(a[1] <= b[1] for a, b in pairwise((*chain, longest)))
    )
    assert padded_tokens(lengths, chosen) == min(padded_tokens(lengths, c) for c in chains)


def test_shapes_by_hand() -> None:
    rows = numbered([(2, 3), (2, 3), (3, 2), (9, 4), (8, 10)])
    assert pair_shapes(rows, 1) == ((9, 10),)
    assert pair_shapes(rows, 2) == ((3, 3), (9, 10))  # 3 * 6 + 2 * 19, not 4 * 13 + 19
    assert pair_shapes(rows, 3) == ((3, 3), (9, 4), (9, 10))


def whole_epoch(source: PairBatches, epoch: int) -> list[PairBatch]:
    """Every batch of an epoch, read as far as one shape goes."""
    batches: list[PairBatch] = []
    while len(batches) < source.batches_per_epoch:
        count = source.same_shape(epoch, len(batches))
        assert count >= 1
        read = source.read(epoch, len(batches), count)
        batches += [PairBatch(*(leaf[i] for leaf in read)) for i in range(count)]
    assert len(batches) == source.batches_per_epoch
    return batches


def check_rows(batch: PairBatch, lengths: Lengths) -> list[int]:
    """Numbers of the pairs in a batch, each whole and with its own target."""
    numbers = []
    for sources, source_length, targets, target_length, weight in zip(*batch, strict=True):
        assert weight in (0, 1)
        number = int(sources[0])
        source, target = lengths[number - 1] if weight else (0, 0)
        assert (source_length, target_length) == (source, target)
        assert sources.tolist() == [number] * source + [0] * (len(sources) - source)
        assert targets.tolist() == [100 + number] * target + [0] * (len(targets) - target)
        numbers += [number] if weight else []
    return numbers


@settings(max_examples=40)
@given(
    LENGTHS,
    TOKENS,
    *[st.integers(1, 3) for _ in range(4)],
    st.integers(-(2**31), 2**32 - 1),
    st.integers(0, 3),
)
def test_each_pair_comes_once_an_epoch(
    lengths: Lengths,
    batch_tokens: int,
    count: int,
    devices: int,
    accumulate: int,
    steps: int,
    seed: int,
    epoch: int,
) -> None:
    rows = numbered(lengths)
    source = PairBatches(
        rows,
        batch_tokens,
        pair_shapes(rows, count),
        seed,
        accumulate * steps,
        accumulate_steps=accumulate,
        devices=devices,
    )
    batches = whole_epoch(source, epoch)
    assert sorted(n for batch in batches for n in check_rows(batch, lengths)) == [
        *range(1, len(lengths) + 1)
    ]
    for batch in batches:
        size, per_device = (
            len(batch.weights),
            devices * (batch.sources.shape[1] + batch.targets.shape[1]),
        )
        assert size % devices == 0
        assert size == devices or size * per_device // devices <= batch_tokens
        # As many rows as fit, or all pairs.
        assert (size + devices) * per_device // devices > batch_tokens or size >= len(lengths)
    # A step has one shape and a pair at least, and one step of the epoch at most is incomplete.
    assert len(batches) % accumulate == 0
    grouped = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    assert all(len({batch.sources.shape for batch in step}) == 1 for step in grouped)
    fullness = [np.mean([batch.weights.mean() for batch in step]) for step in grouped]
    assert min(fullness) > 0
    assert sum(share < 1 for share in fullness) <= 1
    # The shapes that are named are those that come.
    named = [tuple((leaf.shape, leaf.dtype) for leaf in shape) for shape in source.shapes]
    come = {tuple((leaf.shape, leaf.dtype) for leaf in batch) for batch in batches}
    assert len(named) == len(come) <= count
    assert {*named} == come


@settings(max_examples=15)
@given(LENGTHS, TOKENS, st.integers(1, 4), st.data())
def test_any_slice_agrees_with_the_whole(
    lengths: Lengths, batch_tokens: int, count: int, data: st.DataObject
) -> None:
    rows = numbered(lengths)
    shapes = pair_shapes(rows, count)

    def fresh() -> PairBatches:
        return PairBatches(rows, batch_tokens, shapes, seed=5, block=2)

    source = fresh()
    whole = {epoch: whole_epoch(source, epoch) for epoch in (0, 1)}
    for _ in range(3):  # any order of reading, from this source or another
        epoch = data.draw(st.integers(0, 1))
        first = data.draw(st.integers(0, source.batches_per_epoch - 1))
        number = data.draw(st.integers(1, source.same_shape(epoch, first)))
        size = len(whole[epoch][first].weights)
        part = slice(data.draw(st.integers(0, size - 1)), size)
        wanted = [
            np.stack(leaves)[:, part]
            for leaves in zip(*whole[epoch][first : first + number], strict=True)
        ]
        for origin in (source, fresh()):
            for leaf, expected in zip(origin.read(epoch, first, number, part), wanted, strict=True):
                np.testing.assert_array_equal(leaf, expected)


def test_pairs_meet_others_in_each_epoch_and_seed() -> None:
    lengths = [(2, 3), (2, 3), (5, 8)] * 20
    rows = numbered(lengths)

    def batches(seed: int, epoch: int) -> frozenset[frozenset[int]]:
        source = PairBatches(rows, 50, (PairShape(2, 3), PairShape(5, 8)), seed)
        return frozenset(frozenset(check_rows(b, lengths)) for b in whole_epoch(source, epoch))

    assert len({batches(seed, epoch) for seed in (0, 1) for epoch in range(3)}) == 6
    assert batches(1, 2) == batches(1, 2)


def test_training_reads_all_pairs_in_steps_of_one_shape() -> None:
    lengths = [(2, 3), (3, 3), (5, 9), (7, 7), (8, 4)] * 10
    rows = numbered(lengths)
    source = PairBatches(rows, 40, pair_shapes(rows, 3), 2, block=4, accumulate_steps=2, devices=2)
    assert isinstance(source, BatchSource)
    config = TrainingConfig(accumulate_steps=2, steps_per_dispatch=3, epochs=2)
    schedule = StepSchedule(source, config)
    blank = {batch.sources.shape for batch in schedule.blank_batches()}
    step, seen = 0, []
    while step < schedule.total:
        length = schedule.length(step, 3)
        batches = schedule.read(step, length)
        assert batches.sources.shape in blank
        assert (batches.weights[:length].sum(axis=(1, 2)) > 0).all()
        seen += batches.sources[..., 0][batches.weights == 1].tolist()
        step += length
    assert sorted(seen) == sorted(2 * [*range(1, 51)])


@settings(max_examples=25)
@given(LENGTHS, TOKENS, st.integers(1, 3), st.integers(1, 4))
def test_evaluation_reads_each_pair_once_in_its_shape(
    lengths: Lengths, batch_tokens: int, devices: int, count: int
) -> None:
    rows = numbered(lengths)
    shapes = pair_shapes(numbered([*lengths, (12, 12)]), count)
    found = np.zeros(len(lengths), int)
    for indexes, batch in pairs_by_shape(rows, batch_tokens, shapes, devices):
        number, shape = len(indexes), (batch.sources.shape[1], batch.targets.shape[1])
        assert len(batch.weights) == devices * max(1, batch_tokens // (sum(shape) * devices))
        assert batch.weights.tolist() == [1] * number + [0] * (len(batch.weights) - number)
        assert (found[indexes] == 0).all()
        found[indexes] = check_rows(batch, lengths)
        for index in indexes.tolist():
            a, b = lengths[index]
            assert shape == next(s for s in shapes if s.source >= a and s.target >= b)
    np.testing.assert_array_equal(found, np.arange(1, len(lengths) + 1))
    assert list(pairs_by_shape(numbered([]), batch_tokens, shapes)) == []


def test_what_does_not_fit_is_named() -> None:
    rows = numbered([(2, 3), (7, 3), (3, 4)])
    for read in (PairBatches, pairs_by_shape):
        with pytest.raises(UserError, match=r"at most 4 source and 4 target.*got 7 and 4; cut th"):
            read(rows, 20, (PairShape(2, 4), PairShape(4, 4)))
    with pytest.raises(UserError, match="no pairs to batch"):
        PairBatches(numbered([]), 20, (PairShape(7, 4),))
    with pytest.raises(UserError, match="no rows to batch"):
        pair_shapes(numbered([]), 2)
    with pytest.raises(UserError, match="`buckets` must be at least 1, got 0"):
        pair_shapes(rows, 0)
    with pytest.raises(ValueError, match="must rise"):
        PairBatches(rows, 20, (PairShape(2, 9), PairShape(9, 3)))
    source = PairBatches(numbered([(1, 2), (5, 5)]), 3, (PairShape(1, 2), PairShape(5, 5)))
    with pytest.raises(ValueError, match="several buckets"):
        source.read(0, 0, 2)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(3, 9), max_size=4), max_size=8))
def test_targets_get_their_ends(rows: list[list[int]]) -> None:
    ended = with_ends(Ragged.from_rows(rows), 1, 2)
    assert [ended.row(n).tolist() for n in range(len(rows))] == [[1, *row, 2] for row in rows]


def test_too_long_is_cut_with_a_counted_warning_or_refused() -> None:
    sources = Ragged.from_rows([[5] * 3, [6] * 7, [7] * 5])
    targets = Ragged.from_rows([[8] * 2, [8, 9], [9, 8, 9, 8]])

    def encoded(**settings: object) -> PairRows:
        return encoded_pairs(sources, targets, PairData(**settings), bos=1, eos=2, name="a.tsv")

    whole = encoded(source_length=7, target_length=4)
    assert whole.targets.lengths.tolist() == [4, 4, 6]
    found = r"2 of 3 sources of a.tsv are longer than `data.source_length`, 4 tokens; the longest "
    found += r"is number 2 with 7; "
    with pytest.warns(UserWarning, match=f"{found}their end is cut off"):
        cut = encoded(source_length=4)
    assert cut.sources.lengths.tolist() == [3, 4, 4]
    with pytest.raises(UserError, match=f"{found}raise `data.source_length`.* --data.too-long cut"):
        encoded(source_length=4, too_long="refuse")
    with pytest.warns(UserWarning, match=r"1 of 3 targets of .* `data.target_length`, 2 tokens"):
        cut = encoded(target_length=2)
    # Its end was not seen, so there is no <eos>.
    assert [cut.targets.row(n).tolist() for n in range(3)] == [
        [1, 8, 8, 2],
        [1, 8, 9, 2],
        [1, 9, 8, 9],
    ]
