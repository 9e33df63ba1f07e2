"""A regular expression as a finite automaton over characters, by the library `interegular`."""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jaxgen.errors import UserError, first_line
from jaxgen.types import Bool, Int


class CharacterAutomaton(NamedTuple):
    """An automaton over characters; state 0 is the start."""

    columns: dict[str, int]
    """The column of each character that the expression tells from others."""
    transitions: Int[np.ndarray, "S C"]
    """The state after a character, -1 where no match can follow; the last column is that of all
    characters without one of their own."""
    accepting: Bool[np.ndarray, "S"]
    """States in which the text matches."""


@lru_cache(maxsize=8)
def regex_automaton(expression: str) -> CharacterAutomaton:
    r"""The automaton that accepts the texts that an expression matches as a whole.

    The syntax is that of Python's `re`, without look-around (which the library takes for a demand
    on how long the text is), back-references, `^`, `$` and word boundaries; `.` is any character
    but a new line, `\w` and `\d` are of ASCII.

    Raises:
        UserError: `interegular` is not installed, the expression is none that it knows, or nothing
            matches it.
    """
    try:
        import interegular
        from interegular.fsm import anything_else
    except ImportError:
        raise UserError(
            "`regex` needs the package interegular; install it with: pip install 'jaxgen[regex]'"
        ) from None
    try:
        if _looks_around(expression):
            raise ValueError("it looks around")
        found = interegular.parse_pattern(expression).to_fsm()
    except Exception as error:  # the library has no exception of its own for all that it refuses
        said = first_line(error)
        raise UserError(
            "`regex` must be a regular expression without look-around, back-references, word "
            f"boundaries, `^` and `$` (it matches the whole text), got {expression!r} ({said}); "
            "mend it, or write a backslash before a character that stands for itself"
        ) from error
    if found.empty():
        raise UserError(f"`regex` must match some text, got {expression!r}, which matches none")
    states = {found.initial: 0}
    for state in sorted(found.states):
        states.setdefault(state, len(states))
    keys = {symbol: key for symbol, key in found.alphabet.items() if symbol is not anything_else}
    others = dict(found.alphabet.items()).get(anything_else)
    order = {key: column for column, key in enumerate(sorted(set(keys.values()) - {others}))}
    table = np.full((len(states), len(order) + 1), -1, np.int32)
    for state, after in found.map.items():
        for key, target in after.items():
            column = order.get(key, len(order) if key == others else None)
            if column is not None:
                table[states[state], column] = states[target]
    columns = {symbol: order[key] for symbol, key in keys.items() if key != others}
    accepting = np.array([state in found.finals for state in states])
    return CharacterAutomaton(columns, table, accepting)


def _looks_around(expression: str) -> bool:
    """Whether it holds one of `(?=`, `(?!`, `(?<=`, `(?<!`, outside escapes and sets."""
    bare = re.sub(r"\\.", "", expression, flags=re.DOTALL)
    return re.search(r"\(\?<?[=!]", re.sub(r"\[\^?\]?[^\]]*\]", "", bare)) is not None
