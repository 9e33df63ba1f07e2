"""Copies of the nearest training pair against a comparison with each of them."""

from collections import Counter
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.evaluation import nearest_pair
from jaxgen.evaluation.nearest_pair import NearestPairs

WORDS = st.lists(st.sampled_from("abcde"), max_size=6).map(" ".join)


@settings(max_examples=25)
@given(st.lists(WORDS, min_size=1, max_size=8), WORDS, st.sampled_from([0, 0.5, 1]))
def test_the_nearest_is_that_of_all_pairs_compared(
    sources: list[str], source: str, dense: float
) -> None:
    def f1(other: str) -> float:
        shared = (Counter(source.split()) & Counter(other.split())).total()
        return shared / max(len(source.split()) + len(other.split()), 1)

    scores = [f1(other) for other in sources]
    wanted = scores.index(max(scores)) if max(scores) else -1
    with patch.object(nearest_pair, "DENSE", dense):
        assert NearestPairs(sources, sources).nearest(source) == wanted


def test_translations_are_targets() -> None:
    pairs = NearestPairs(["ein hund läuft", "ein hund", "zwei zwei"], ["a", "b", "c"])
    assert pairs.translate(["ein hund", "läuft", "zwei", "katze", ""]) == ["b", "a", "c", "", ""]
    sums = NearestPairs(["12+3", "45+6"], ["15", "51"], split=list)
    assert sums.translate(["46+5", "1+32"]) == ["51", "15"]


@pytest.mark.parametrize(("sources", "targets"), [([], []), (["a"], ["b", "c"])])
def test_bad_pairs(sources: list[str], targets: list[str]) -> None:
    message = f"got {len(sources)} sources and {len(targets)} targets"
    with pytest.raises(UserError, match=message):
        NearestPairs(sources, targets)
