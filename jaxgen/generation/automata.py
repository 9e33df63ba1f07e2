"""Finite automata over tokens, made from tables or from automata over bytes.

State 0 is the start. From every state that a text can be in, some token leads on, and an accepting
state can still be reached: what would lead elsewhere is forbidden beforehand. A text that is cut
short, by a largest number of tokens, may of course end before it.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Bool, Int


class Automaton(NamedTuple):
    """Which tokens may follow which; `make_automaton` builds one.

    Tokens that lead to the same states from everywhere share a column, their class.
    """

    transitions: Int[Any, "S C"]
    """The state after a token of each class; -1: forbidden."""
    classes: Int[Any, "V"]
    """The class of each token."""
    accepting: Bool[Any, "S"]
    """States in which a text is complete."""


def make_automaton(transitions: Any, accepting: Any, end_token: int | None = None) -> Automaton:
    """An automaton over tokens, without dead ends.

    Args:
        transitions: Int[S, V], the state after each token; -1: forbidden. State 0 is the start.
        accepting: Bool[S], states in which a text is complete.
        end_token: the token that ends a text: allowed in accepting states, and after itself alone.
            Its own column is not looked at. Where it is V, one past the vocabulary, it is a token
            that no model knows: a constrained step function then has V + 1 logits, and it is
            allowed, with certainty, only in accepting states that no token continues. Give it as a
            stop token. None: texts end by other means.

    Raises:
        UserError: for a table that is none, an automaton that can accept nothing, or one whose
            texts come to an end without an end token.
    """
    table, done = _checked(transitions, accepting)
    size, vocab_size = table.shape
    if end_token is not None:
        if not 0 <= end_token <= vocab_size:
            raise UserError(f"`end_token` must be in [0, {vocab_size}], got {end_token}")
        beyond = end_token == vocab_size
        if beyond:
            table = np.concatenate([table, np.full((size, 1), -1, np.int32)], axis=1)
        table = np.concatenate([table, np.full((1, table.shape[1]), -1, np.int32)])
        table[:, end_token] = -1
        done = np.append(done, True)
    table, classes = _compress(table)
    table = without_dead_ends(table, done)
    if not done[0] and (table[0] < 0).all():
        raise UserError(
            "the automaton accepts no text of this vocabulary: no accepting state can be reached "
            "from the start"
        )
    stuck = np.asarray((table < 0).all(axis=1))
    if end_token is not None:
        table, classes = _end(table, classes, done, end_token, stuck if beyond else None)
        stuck &= ~done
    kept = reached(table)
    if stuck[kept].any():
        raise UserError(
            "the automaton has texts that no token may continue; give an `end_token`, such as the "
            f"tokenizer's end of a text, or {vocab_size}, one past the vocabulary"
        )
    table, again = _compress(renumbered(table, kept))
    return Automaton(table, again[classes], done[kept])


def over_tokens(
    transitions: Int[Any, "S 256"],
    accepting: Bool[Any, "S"],
    tokenizer: Any,
    end_token: int | None = None,
) -> Automaton:
    """An automaton over the tokens of a tokenizer, from one over the bytes of their text.

    Tokens may hold several bytes, or parts of characters. Where words stand apart by blanks, the
    blanks are part of the text. Special tokens and those without a text are forbidden, the end
    token aside.

    Args:
        transitions: the state after each byte; -1: forbidden. State 0 is the start.
        accepting: states in which a text is complete.
        tokenizer: `token_texts(after_word)` gives, for each id, the UTF-8 that it adds to a text
            and whether a word, which a blank follows, then ends the text; `special_ids`.
        end_token: as in `make_automaton`.

    Raises:
        UserError: as `make_automaton`.
    """
    table, done = _checked(transitions, accepting)
    size, parts = len(table), []
    # The states after each byte, with a place at the end that answers for -1.
    after = np.concatenate([table, np.full((1, 256), -1, np.int32)]).T.copy()
    for after_word in (False, True):
        texts = tokenizer.token_texts(after_word)
        states = np.full((len(texts), size), -1, np.int32)
        for token, (text, word) in enumerate(texts):
            if text and token not in tokenizer.special_ids:
                state = np.arange(size)
                for code in text:
                    state = after[code][state]
                states[token] = np.where(state < 0, -1, state + size * word)
        parts.append(states.T)
        if not any(word for _, word in texts):  # no blanks: one part tells all
            break
    return make_automaton(np.concatenate(parts), np.tile(done, len(parts)), end_token)


def without_dead_ends(table: Int[np.ndarray, "S C"], done: Bool[np.ndarray, "S"]) -> np.ndarray:
    """The table, -1 where it led to a state from which no accepting one can be reached."""
    source, target = _edges(table)
    alive = _spread(done, target, source)
    return np.where((table >= 0) & alive[table], table, -1).astype(np.int32)


def _checked(transitions: Any, accepting: Any) -> tuple[np.ndarray, np.ndarray]:
    table, done = np.asarray(transitions), np.asarray(accepting)
    whole = table.ndim == 2 and table.size and np.issubdtype(table.dtype, np.integer)
    if not whole or table.min() < -1 or table.max() >= len(table):
        raise UserError(
            "`transitions` must be whole numbers [S, V], each a state in [0, S) or -1, got "
            f"{table.dtype}{list(table.shape)}"
            + (f" from {table.min()} to {table.max()}" if whole else "")
        )
    if done.dtype != bool or done.shape != table.shape[:1]:
        raise UserError(
            f"`accepting` must be a boolean for each of the {len(table)} states, got "
            f"{done.dtype}{list(done.shape)}"
        )
    return table.astype(np.int32), done


def renumbered(table: Int[np.ndarray, "S C"], kept: Int[np.ndarray, "K"]) -> np.ndarray:
    """The rows of some states, which are then states 0, 1, ...; -1 in the place of others."""
    number = np.full(len(table) + 1, -1, np.int32)  # the last place answers for -1
    number[kept] = np.arange(len(kept))
    return number[table[kept]]


def reached(table: Int[np.ndarray, "S C"]) -> np.ndarray:
    """States that can be reached from the start, in order."""
    return np.flatnonzero(_spread(np.arange(len(table)) == 0, *_edges(table)))


def _compress(table: Int[np.ndarray, "S V"]) -> tuple[np.ndarray, np.ndarray]:
    """The different columns, and which of them each token has."""
    kinds: dict[bytes, int] = {}
    columns = np.ascontiguousarray(table.T)
    classes = [kinds.setdefault(column.tobytes(), len(kinds)) for column in columns]
    _, first = np.unique(classes, return_index=True)
    return np.ascontiguousarray(table[:, first]), np.array(classes, np.int32)


def _edges(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of states that some token joins, each once."""
    source, column = np.nonzero(table >= 0)
    pairs = np.unique(source.astype(np.int64) * len(table) + table[source, column])
    return pairs // len(table), pairs % len(table)


def _spread(start: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Which states the edges reach from those where `start` is True."""
    found, fresh = start.copy(), start
    while fresh.any():
        after = np.zeros_like(found)
        after[target[fresh[source]]] = True
        fresh = after & ~found
        found |= fresh
    return found


def _end(
    table: np.ndarray,
    classes: np.ndarray,
    done: np.ndarray,
    end_token: int,
    only: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The table with the end token, in a column of its own, that leads to the last state."""
    last = len(table) - 1
    legal = done if only is None else done & only
    column = np.where(legal, last, -1).astype(np.int32)
    column[last] = last
    classes = classes.copy()
    classes[end_token] = table.shape[1]
    return np.concatenate([table, column[:, None]], axis=1), classes
