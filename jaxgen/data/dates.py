"""Dates as people write them and as ISO 8601 does, in pairs: `3rd of March 2003`, `2003-03-03`.

The days of the years 1900 to 2099, in English. Where a date is all numbers, what is between them
says their order: `3.4.2003` and `3 4 2003` have the day first, `4/3/2003` the month, and a year in
front is followed by the month. Some ways of writing are never trained on: figures of them say how
far a model goes beyond what it saw, those of other days in known ways whether it learned the task.
"""

import datetime
from collections.abc import Sequence

import numpy as np

from jaxgen.errors import UserError

_FIRST, _END = datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}

# d and m without, dd and mm with leading zeros; nth is the day with its ending.
KNOWN = (
    *("{d} {month} {y}", "{d} {mon} {y}", "{dd} {mon} {y}", "{d}-{mon}-{y}", "{dd}{mon}{y}"),
    *("{nth} {month} {y}", "{nth} of {month} {y}", "the {nth} of {month}, {y}", "{nth} {mon} {y}"),
    *("{month} {d}, {y}", "{mon} {d}, {y}", "{mon}. {d}, {y}", "{month} {nth}, {y}"),
    *("{month} {nth} {y}", "{mon} {dd} {y}", "{y} {month} {d}", "{y} {mon} {dd}", "{y}, {d} {mon}"),
    *("{weekday}, {d} {month} {y}", "{weekday}, {month} {d}, {y}", "{wkd} {d} {mon} {y}"),
    *("{wkd}, {mon} {d}, {y}", "{weekday} the {nth} of {month} {y}", "on {weekday}, {mon} {d} {y}"),
    *("{d}.{m}.{y}", "{dd}.{mm}.{y}", "{d} {m} {y}", "{m}/{d}/{y}", "{mm}/{dd}/{y}"),
    *("{y}/{mm}/{dd}", "{y}.{m}.{d}", "{y}{mm}{dd}", "{y} {mm} {dd}"),
)
UNSEEN = (
    *("{month} the {nth}, {y}", "the {nth} {mon} {y}", "{weekday}, the {nth} of {mon}, {y}"),
    *("{y}, {month} {nth}", "{wkd} {d}.{m}.{y}", "{mon}-{dd}-{y}", "{d}. {m}. {y}"),
    *("{dd}. {month} {y}", "{d}/{mon}/{y}"),
)


def dates(count: int, seed: int) -> list[tuple[str, str]]:
    """Draw so many different days, each written in one of the known ways, with its ISO 8601 form.

    Raises:
        UserError: there are fewer days.
    """
    days = (_END - _FIRST).days
    if count > days:
        raise UserError(
            f"`data.examples` must be at most {days}, the days of the years {_FIRST.year} to "
            f"{_END.year - 1}, got {count}; ask for fewer"
        )
    random = np.random.Philox(np.random.SeedSequence((seed % 2**32, 0)))
    chosen = random.random_raw(days).argsort(kind="stable")[:count]
    drawn = [_FIRST + datetime.timedelta(days=day) for day in chosen.tolist()]
    return _written(drawn, KNOWN, random)


def rewritten(iso_dates: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """The same days, each written in one of the ways that `dates` never uses."""
    random = np.random.Philox(np.random.SeedSequence((seed % 2**32, 1)))
    return _written([datetime.date.fromisoformat(day) for day in iso_dates], UNSEEN, random)


def _written(
    days: Sequence[datetime.date], formats: Sequence[str], random: np.random.Philox
) -> list[tuple[str, str]]:
    """Each day in a format and a case by chance: as it is (half of them), lower or upper case."""
    bits = random.random_raw(2 * len(days)).reshape(-1, 2)
    cases = (str, str, str.lower, str.upper)
    return [
        (cases[case % 4](formats[form % len(formats)].format(**_parts(day))), day.isoformat())
        for day, (form, case) in zip(days, bits.tolist(), strict=True)
    ]


def _parts(day: datetime.date) -> dict[str, str]:
    """What formats are filled with."""
    month, weekday = _MONTHS[day.month - 1], _WEEKDAYS[day.weekday()]
    return {
        "y": str(day.year),
        "m": str(day.month),
        "mm": f"{day.month:02}",
        "month": month,
        "mon": month[:3],
        "d": str(day.day),
        "dd": f"{day.day:02}",
        "nth": f"{day.day}{_ENDINGS.get(day.day, 'th')}",
        "weekday": weekday,
        "wkd": weekday[:3],
    }
