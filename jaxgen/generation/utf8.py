"""UTF-8 as a finite automaton over bytes, and automata over characters as automata over bytes."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from jaxgen.generation.automata import (
    Automaton,
    make_automaton,
    reached,
    renumbered,
    without_dead_ends,
)
from jaxgen.types import Bool, Int


def utf8_transitions() -> tuple[Int[np.ndarray, "8 256"], Bool[np.ndarray, "8"]]:
    """Transitions and accepting states of UTF-8 (RFC 3629) over bytes.

    Neither surrogates nor overlong forms nor code points beyond U+10FFFF pass. State 0 is between
    characters; states 1 to 3 wait for so many more bytes of any value, 4 to 7 come after the first
    bytes whose second byte is restricted.
    """
    table = np.full((8, 256), -1, np.int32)
    for state, first, last, after in (
        *((0, 0x00, 0x7F, 0), (0, 0xC2, 0xDF, 1), (0, 0xE1, 0xEC, 2), (0, 0xEE, 0xEF, 2)),
        *((0, 0xF1, 0xF3, 3), (1, 0x80, 0xBF, 0), (2, 0x80, 0xBF, 1), (3, 0x80, 0xBF, 2)),
        *((0, 0xE0, 0xE0, 4), (4, 0xA0, 0xBF, 1), (0, 0xED, 0xED, 5), (5, 0x80, 0x9F, 1)),
        *((0, 0xF0, 0xF0, 6), (6, 0x90, 0xBF, 2), (0, 0xF4, 0xF4, 7), (7, 0x80, 0x8F, 2)),
    ):
        table[state, first : last + 1] = after
    return table, np.arange(8) == 0


@lru_cache(maxsize=4)
def utf8_automaton(vocab_size: int = 256) -> Automaton:
    """Valid UTF-8 for a model whose first 256 tokens are the bytes.

    Others, such as the end of a text, come between characters.
    """
    table, done = utf8_transitions()
    others = np.where(done, 0, -1).astype(np.int32)[:, None]
    return make_automaton(np.concatenate([table, *[others] * (vocab_size - 256)], axis=1), done)


def over_bytes(
    columns: Mapping[str, int],
    transitions: Int[np.ndarray, "S C"],
    accepting: Bool[np.ndarray, "S"],
) -> tuple[Int[np.ndarray, "N 256"], Bool[np.ndarray, "N"]]:
    """An automaton over the bytes of UTF-8, from one over characters.

    Args:
        columns: of the characters that have a column of their own.
        transitions: the state after a character, -1: forbidden; the last column is that of all
            other characters. State 0 is the start.
        accepting: states in which a text is complete.

    Returns:
        The state after each byte and the accepting states, as `over_tokens` takes them.
    """
    inside, column = _decoder(columns, transitions.shape[1] - 1)
    size, count = len(transitions), len(inside)
    # State q * count + d: state q between characters, d of the decoder within one.
    first = (np.arange(size, dtype=np.int32) * count)[:, None, None]
    whole = transitions[:, column]
    table = np.where(whole < 0, -1, whole * count)
    table = np.where(inside == 0, table, np.where(inside < 0, -1, first + inside))
    table = table.reshape(size * count, 256).astype(np.int32)
    done = np.repeat(accepting, count) & (np.arange(size * count) % count == 0)
    table = without_dead_ends(table, done)
    kept = reached(table)
    return renumbered(table, kept), done[kept]


def _decoder(columns: Mapping[str, int], others: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a byte leads within a character, 0 at its end and -1 nowhere; and its column there.

    To the states of UTF-8 come those after the first bytes of characters with own columns.
    """
    utf8, _ = utf8_transitions()
    inside, column = list(utf8), list(np.full_like(utf8, others))
    for character, own in columns.items():
        if 0xD800 <= ord(character) < 0xE000:  # half a surrogate pair, which no text holds
            continue
        *first, last = character.encode()
        state, plain = 0, 0
        for code in first:
            plain = int(utf8[plain, code])
            if inside[state][code] < len(utf8):
                inside[state] = inside[state].copy()
                inside[state][code] = len(inside)
                inside.append(utf8[plain].copy())
                column.append(np.full(256, others, np.int32))
            state = int(inside[state][code])
        column[state][last] = own
    return np.array(inside), np.array(column)
