"""Random texts of a request: tokens decoded chunk by chunk, made texts as they come."""

from typing import Any

from jaxgen.generation.lines import Line, Sample
from jaxgen.generation.requests import Request
from jaxgen.generation.runner import Runner

_CHUNK = 64
"""Steps between two looks at the text for a stop string."""


def sample_texts(
    runner: Runner,
    tokenizer: Any,
    request: Request,
    key: Any,
    max_new_tokens: int,
    *,
    stop: Any = None,
    logprobs: bool = True,
) -> list[Sample]:
    """A text for each row of the request.

    Args:
        runner: the model.
        tokenizer: of the texts.
        request: what to continue.
        key: a seed, a key, or one key a row.
        max_new_tokens: of each text, at most.
        stop: strings, the first of which ends a text.
        logprobs: whether to give log-probabilities.
    """
    contexts = [request.context[row] for row in request.rows]
    lines = [Line(tokenizer, context, stop, request.ending) for context in contexts]
    chunk = _CHUNK if stop else None
    for decoded in runner.decode(request, key, max_new_tokens, chunk, logprobs):
        for row, line in enumerate(lines):
            line.push(decoded, row)
        if all(line.finished for line in lines):
            break
    return [line.sample(logprobs) for line in lines]
