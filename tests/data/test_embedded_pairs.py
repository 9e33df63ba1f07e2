"""Dates and sums: each is right, none comes twice, and unseen ways of writing are unseen."""

import datetime
import re

import pytest

from jaxgen.data import dates as module
from jaxgen.data.addition import additions
from jaxgen.data.dates import KNOWN, UNSEEN, dates, rewritten

MONTHS = "january february march april may june july august september october november december"


def read(text: str) -> str:
    """ISO 8601 of a written date, by the rules that the module states, and none of its code."""
    words = text.lower()
    for number, name in enumerate(MONTHS.split(), 1):
        words, named = re.subn(rf"{name}|(?<![a-z]){name[:3]}(?![a-z])", f" m{number} ", words)
        if named:
            break
    else:
        number = 0
    days = "monday tuesday wednesday thursday friday saturday sunday"
    weekday = next((n for n, d in enumerate(days.split()) if re.search(rf"\b{d[:3]}", words)), None)
    numbers = [int(n) for n in re.findall(r"(?<!m)(?<!m1)\d+", words)]
    if len(numbers) == 1:  # 20030304
        digits = str(numbers[0])
        numbers = [int(digits[:4]), int(digits[4:6]), int(digits[6:])]
    if number:
        year, day = max(numbers), min(numbers)
        month = number
    elif numbers[0] > 31:
        year, month, day = numbers
    elif "/" in words:
        month, day, year = numbers
    else:
        day, month, year = numbers
    date = datetime.date(year, month, day)
    assert weekday is None or date.weekday() == weekday
    ending = re.search(r"\d(st|nd|rd|th)\b", words)
    if ending:
        teens = 11 <= day <= 13
        right = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
        assert ending[1] == ("th" if teens else right)
    return date.isoformat()


def test_every_way_of_writing_can_be_read_back() -> None:
    days = [datetime.date(2003, 3, 4), datetime.date(1911, 5, 11), datetime.date(2099, 12, 31)]
    days += [datetime.date(1956, 9, day) for day in range(1, 31)]
    for form in (*KNOWN, *UNSEEN):
        for day in days:
            text = form.format(**module._parts(day))
            assert read(text) == day.isoformat(), text


def test_dates_are_different_days_in_known_ways() -> None:
    pairs = dates(3000, seed=1)
    assert len({iso for _, iso in pairs}) == len({text for text, _ in pairs}) == 3000
    assert all(read(text) == iso for text, iso in pairs)
    assert all("1900-01-01" <= iso <= "2099-12-31" for _, iso in pairs)
    assert dates(3000, seed=1) == pairs
    assert dates(100, seed=1) != dates(100, seed=2)
    # A run that goes on elsewhere needs the same pairs.
    assert [text for text, _ in pairs[:3]] == [
        *("wednesday the 24th of november 2032", "19JUL1933", "23 Apr 1994")
    ]
    # Half of them are as they are written, a quarter each in lower and upper case.
    lower = [text for text, _ in pairs if re.search("[a-z]", text) and text == text.lower()]
    lettered = [text for text, _ in pairs if re.search("[a-zA-Z]{3}", text)]
    assert 0.2 < len(lower) / len(lettered) < 0.3  # 0.25 +- 0.009


def test_unseen_ways_are_unseen() -> None:
    assert not {*KNOWN} & {*UNSEEN}
    days = [iso for _, iso in dates(2000, seed=0)]
    pairs = rewritten(days, seed=0)
    assert [iso for _, iso in pairs] == days
    for text, iso in pairs:
        assert read(text) == iso
        parts = module._parts(datetime.date.fromisoformat(iso))
        known = {form.format(**parts).lower() for form in KNOWN}
        assert text.lower() not in known, text


@pytest.mark.parametrize("digits", [1, 2, 3, 9])
def test_sums_are_right_and_come_once(digits: int) -> None:
    count = {1: 27, 2: 2000}.get(digits, 3000)
    pairs = additions(count, digits, seed=3)
    terms = [tuple(int(n) for n in source.split("+")) for source, _ in pairs]
    assert all(target == str(a + b) for (a, b), (_, target) in zip(terms, pairs, strict=True))
    assert len({frozenset(pair) for pair in terms}) == len(terms) == count
    assert max(max(pair) for pair in terms) < 10**digits
    if digits == 3:
        # Of one digit: a third, a tenth of the others of two, a hundredth of three.
        short = sum(a < 10 for a, _ in terms) / count
        assert 0.2 < short < 0.37
    assert additions(count, digits, seed=3) == pairs
    assert additions(count, digits, seed=4) != pairs


def test_sums_stay_what_they_were() -> None:
    assert additions(3, 3, seed=3) == [("301+2", "303"), ("5+10", "15"), ("54+6", "60")]
