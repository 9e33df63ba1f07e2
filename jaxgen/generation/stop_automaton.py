"""Stop strings for a search on the device: an automaton over tokens, and a step function with it.

A stop string may begin and end inside tokens, so that which token completes one depends on the
text before. The automaton of Aho & Corasick (1975) over the UTF-8 of the stop strings knows all of
that text that matters in one state; run over the text of each token, it gives a table [states, V].
A step function that carries the state then tells a completing token from the same token elsewhere:
it gives it another id, beyond the vocabulary, and these ids are stop tokens of the search. Lengths,
log-probabilities and the number of steps are those of the tokens as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.generation.coverage import attention
from jaxgen.generation.decoding import StepFn, restricted
from jaxgen.types import Array, Float, Int, PyTree


class StopAutomaton(NamedTuple):
    """What each token does to the search for stop strings."""

    table: Int[Any, "S V"]
    """The state after a token. The last state: a stop string is complete."""
    completing: Int[Any, "F"]
    """The tokens that complete a stop string after some text; padded with -1."""
    starts: tuple[int, ...]
    """The state before the last token of the prompt, by whether a word ends the prompt."""

    def start(self, tokenizer: Any, context: np.ndarray) -> int:
        """The state with which a search that follows these tokens begins."""
        word = False
        for token in context.tolist():
            word = tokenizer.token_texts(word)[token][1]
        return self.starts[int(word)]

    def doubles(self, tokens: Any) -> np.ndarray:
        """Token ids (-1 is none), with the second ids of those that complete a stop string."""
        tokens, vocab_size = np.asarray(tokens, np.int32), self.table.shape[1]
        same = tokens[..., None] == np.where(self.completing < 0, -2, self.completing)
        second = np.where(same.any(-1), vocab_size + same.argmax(-1), -1)
        return np.concatenate([tokens, second.astype(np.int32)], axis=-1)

    def stop_tokens(self) -> np.ndarray:
        """The second ids."""
        return np.arange(len(self.completing), dtype=np.int32) + self.table.shape[1]

    def real(self, tokens: np.ndarray) -> np.ndarray:
        """Token ids of the vocabulary."""
        vocab_size = self.table.shape[1]
        second = self.completing[np.maximum(tokens - vocab_size, 0)]
        return np.where(tokens < vocab_size, tokens, second)


class StopParams(NamedTuple):
    """Parameters of a `StopStep`."""

    params: PyTree
    table: Int[Array, "S V"]
    completing: Int[Array, "F"]


@dataclass(frozen=True)
class StopStep:
    """`step_fn` with an automaton: its carry is (carry, state[B]), its logits are [B, V + F]."""

    step_fn: StepFn

    def __call__(
        self, params: StopParams, carry: tuple[PyTree, Int[Array, "B"]], tokens: Int[Array, "B"]
    ) -> tuple[tuple[PyTree, Int[Array, "B"]], Float[Array, "B W"]]:
        """One step; a token that would complete a stop string has its logit at its second id."""
        params, table, completing = params
        last, vocab_size = table.shape[0] - 1, table.shape[1]
        second = completing[jnp.maximum(tokens - vocab_size, 0)]
        tokens = jnp.maximum(jnp.where(tokens < vocab_size, tokens, second), 0)
        after, logits = self.step_fn(params, carry[0], tokens)
        state = table[carry[1], tokens]
        ends = table[state] == last
        places = jnp.maximum(completing, 0)
        ending = jnp.where(ends[:, places] & (completing >= 0), logits[:, places], -jnp.inf)
        plain = jnp.where(ends, -jnp.inf, logits)
        return (after, state), jnp.concatenate([plain, ending], axis=1)

    @property
    def restrict(self) -> Any:
        """That of the step function, if it has one, for the second ids too."""
        return self._restrict if getattr(self.step_fn, "restrict", None) else None

    @property
    def attention(self) -> Any:
        """That of the step function, if it has one."""
        return self._attention if getattr(self.step_fn, "attention", None) else None

    def _attention(self, params: StopParams, carry: tuple[PyTree, Array]) -> tuple[Array, Array]:
        return attention(self.step_fn, params.params, carry[0])

    def _restrict(
        self, params: StopParams, carry: tuple[PyTree, Array], logits: Float[Array, "B W"]
    ) -> Float[Array, "B W"]:
        zeros = jnp.zeros((len(logits), params.table.shape[1]), logits.dtype)
        bans = restricted(self.step_fn, params.params, carry[0], zeros)
        return logits + jnp.concatenate([bans, bans[:, jnp.maximum(params.completing, 0)]], axis=1)


@lru_cache(maxsize=8)
def stop_automaton(tokenizer: Any, stops: tuple[str, ...]) -> StopAutomaton | None:
    """The automaton of some stop strings, or None where no text of the tokenizer holds one.

    Args:
        tokenizer: `token_texts(after_word)` gives, for each id, the UTF-8 that it adds to a text
            and whether a word, which a blank follows, then ends the text.
        stops: the stop strings.
    """
    delta = _byte_table([stop.encode() for stop in stops])
    size = len(delta) - 1  # the last state is that of a complete stop string
    parts = []
    for after_word in (False, True):
        texts, words = zip(*tokenizer.token_texts(after_word), strict=True)
        width = max(map(len, texts))
        codes = np.full((len(texts), width), -1, np.int16)
        for row, text in zip(codes, texts, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)
        states = np.repeat(np.arange(size)[:, None], len(texts), axis=1)
        for place in range(width):
            code = codes[:, place]
            states = np.where(code >= 0, delta[states, code], states)
        parts.append(np.where(states == size, 2 * size, states + size * np.array(words)))
    table = np.concatenate(parts).astype(np.int32)
    ending = table == 2 * size
    if not ending.any():
        return None
    # States and completing tokens are padded, so that like stop strings share a program.
    count = -(-(2 * size + 3) // 16) * 16
    table = np.where(ending, count - 1, table)
    rest = np.full((count - 2 * size, table.shape[1]), count - 1, np.int32)
    rest[0], rest[1] = 0, size
    completing = np.flatnonzero(ending.any(axis=0)).astype(np.int32)
    padded = np.full(1 << max(3, (len(completing) - 1).bit_length()), -1, np.int32)
    padded[: len(completing)] = completing
    return StopAutomaton(np.concatenate([table, rest]), padded, (2 * size, 2 * size + 1))


def _byte_table(stops: Sequence[bytes]) -> Int[np.ndarray, "S 256"]:
    """The next state for each state and byte; the last state, of a complete stop, is absorbing."""
    children: list[dict[int, int]] = [{}]
    complete = {0: False}
    for stop in stops:
        node = 0
        for code in stop:
            if code not in children[node]:
                children[node][code] = len(children)
                complete[len(children)] = False
                children.append({})
            node = children[node][code]
        complete[node] = True
    size = len(children)
    delta = np.zeros((size + 1, 256), np.int32)
    delta[size] = size
    fallback = [0] * size
    queue = [0]
    for node in queue:  # breadth first: a fallback is shallower, and so filled in already
        if node:
            delta[node] = delta[fallback[node]]
            complete[node] |= complete[fallback[node]]
        for code, child in children[node].items():
            fallback[child] = int(delta[node, code])
            delta[node, code] = child
            queue.append(child)
    ended = np.array([complete[node] for node in range(size)] + [True])
    return np.where(ended[delta], size, delta)
