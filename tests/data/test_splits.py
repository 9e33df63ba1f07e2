"""Drawn parts: exact shares of each class, disjoint, the same again."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.splits import apportion, stratified

SHARES = st.floats(0.01, 0.49).map(lambda share: round(share, 2))


def test_shares_of_each_class_by_hand() -> None:
    classes = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    left, parts = stratified(classes, {"validation": 0.1, "test": 0.2}, seed=0)
    count = {part: Counter(classes[row] for row in rows) for part, rows in parts.items()}
    assert count == {"validation": {"a": 5, "b": 3, "c": 2}, "test": {"a": 10, "b": 6, "c": 4}}
    assert Counter(classes[row] for row in left) == {"a": 35, "b": 21, "c": 14}


def test_largest_remainder_by_hand() -> None:
    # Quotas 1.7, 1.6 and 0.7 of 4 rows: whole parts 1, 1, 0; the two rows left go to 0.7 and 0.7.
    assert apportion([17, 16, 7], 0.1, [16, 15, 6]) == [2, 1, 1]
    # Equal remainders of 0.5: the classes that come first.
    assert apportion([5, 5, 5, 5], 0.1, [4, 4, 4, 4]) == [1, 1, 0, 0]
    # A tenth of 30 is 3, though the binary number nearest to 0.1 is more than a tenth.
    assert apportion([30, 10], 0.1, [29, 9]) == [3, 1]
    # 5 of 10 rows are wanted; a class gives no more than it can, nor a whole row above its quota.
    assert apportion([2, 2, 6], 0.49, [0, 1, 5]) == [0, 1, 3]


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=80),
    SHARES,
    SHARES,
    st.integers(-(2**31), 2**32 - 1),
)
def test_parts_are_disjoint_and_classes_stay(
    classes: list[int], first: float, second: float, seed: int
) -> None:
    left, parts = stratified(classes, {"validation": first, "test": second}, seed)
    rows = np.concatenate([left, *parts.values()])
    assert sorted(rows) == list(range(len(classes)))
    assert {classes[row] for row in left} == set(classes)
    for part, share in (("validation", first), ("test", second)):
        assert (np.diff(parts[part]) > 0).all()
        counts = Counter(classes[row] for row in parts[part])
        for name, size in Counter(classes).items():
            assert counts[name] < size * share + 1
    again = stratified(classes, {"validation": first, "test": second}, seed)
    np.testing.assert_array_equal(again[0], left)


@given(st.lists(st.integers(10, 40), min_size=1, max_size=6), SHARES)
def test_no_class_is_a_whole_row_from_its_share(sizes: list[int], share: float) -> None:
    counts = apportion(sizes, share, [size - 1 for size in sizes])
    assert abs(sum(counts) - sum(sizes) * share) <= 0.5 + 1e-9
    for size, count in zip(sizes, counts, strict=True):
        assert abs(count - size * share) < 1 + 1e-9


def test_drawn_at_random_by_the_seed() -> None:
    classes = ["a"] * 500 + ["b"] * 500
    drawn = [stratified(classes, {"test": 0.2}, seed)[1]["test"] for seed in (0, 1, 42)]
    assert not any(np.array_equal(drawn[0], other) for other in drawn[1:])
    # The rows are spread over the whole: 100 of class a have a mean place of 249.5, deviation
    # 500 / sqrt(12 * 100) * sqrt(0.8) = 12.9; five deviations are missed once in 1.7 million draws.
    assert [np.mean(rows[:100]) for rows in drawn] == pytest.approx([249.5] * 3, abs=65)
