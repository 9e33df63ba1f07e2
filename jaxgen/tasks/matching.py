"""Texts that match a regular expression: the expression as an automaton over a model's tokens."""

from functools import lru_cache

from jaxgen.data.regex_automaton import regex_automaton
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UserError
from jaxgen.generation.automata import Automaton, over_tokens
from jaxgen.generation.constrained_text import constrained_model
from jaxgen.generation.text import TextModel
from jaxgen.generation.utf8 import over_bytes


def matching(lm: TextModel, expression: str) -> TextModel:
    """A language model whose new texts match a regular expression as a whole.

    Needs the extra `jaxgen[regex]`. A text ends where the expression is complete and the model
    ends it: with the <eos> of its tokenizer, or without one where nothing more can follow (so that
    `[a-z]+` goes on to `max_new_tokens`). One that is cut short by `max_new_tokens` is the
    beginning of a match. The prompt is free, and so is the blank that sets the first new word
    apart from it where tokens are words.

    Args:
        lm: the model; whatever constrained it before is replaced.
        expression: as `jaxgen.data.regex_automaton.regex_automaton` takes it.

    Returns:
        The same model, constrained; see `jaxgen.generation.constrained_text.constrained_model`.

    Raises:
        UserError: the extra is not installed, the expression is none or matches nothing, or no
            text of the vocabulary matches it.
    """
    tokenizer = lm.tokenizer
    end_token = tokenizer.vocab_size if tokenizer.eos_id is None else tokenizer.eos_id
    return constrained_model(lm, _automaton(expression, tokenizer, end_token), end_token)


@lru_cache(maxsize=8)
def _automaton(expression: str, tokenizer: Tokenizer, end_token: int) -> Automaton:
    over_text = over_bytes(*regex_automaton(expression))
    try:
        return over_tokens(*over_text, tokenizer, end_token)
    except UserError as error:
        raise UserError(
            f"`regex` must match some text of the model's {tokenizer.vocab_size} tokens, got "
            f"{expression!r}, which needs others; use characters of its training text"
        ) from error
