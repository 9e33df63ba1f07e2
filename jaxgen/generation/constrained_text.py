"""Text models whose new text a finite automaton accepts."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.automata import Automaton

if TYPE_CHECKING:
    from jaxgen.generation.text import TextModel


class TextAutomaton(NamedTuple):
    """What restricts the new texts of a `TextModel`."""

    automaton: Automaton
    """Over the tokens of the model."""
    end_token: int | None
    """Ends a text without being part of it. None: a text ends where no token may follow."""

    @property
    def comes_to_ends(self) -> bool:
        """Whether a text may end where no token may follow."""
        table, classes = self.automaton.transitions, self.automaton.classes
        return not (np.asarray(table)[:, np.unique(classes)] >= 0).any(axis=1).all()


def constrained_model(
    lm: "TextModel", automaton: Automaton, end_token: int | None = None
) -> "TextModel":
    """A model that writes only what an automaton accepts, in `generate`, `stream` and searches.

    The automaton begins with the new text: what a prompt says is free. Its choice is among the
    tokens that are left, and log-probabilities, `score` and `perplexity` are those of the model
    itself. A text that is cut short by its largest number of tokens may end unfinished; half a
    character at its end is left out of the text then. An automaton that the model had is replaced.

    Args:
        lm: the model.
        automaton: over its tokens; from `utf8_automaton`, `over_tokens` or `make_automaton`.
        end_token: the one that the automaton was made with: the tokenizer's `eos_id`, or the size
            of the vocabulary where it has none. It is no part of the text.

    Raises:
        UserError: the automaton is of another vocabulary.
    """
    vocab_size, size = lm.tokenizer.vocab_size, automaton.classes.shape[0]
    if size != vocab_size + (end_token == vocab_size):
        raise UserError(
            f"`automaton` must be over the {vocab_size} tokens of the model (and the end token "
            f"{vocab_size}, where that is given), got one over {size}; build it for this vocabulary"
        )
    if end_token == vocab_size:  # the text ends there by itself
        automaton, end_token = automaton._replace(classes=automaton.classes[:vocab_size]), None
    return replace(lm, constraint=TextAutomaton(automaton, end_token))
