"""Prompts of a request as token ids, with what is odd about them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxgen.data.tokenizers import unknown_message
from jaxgen.serving.completion_schema import Prompt
from jaxgen.serving.problems import Problem

_LONG = 1 << 14  # characters that are encoded so fast that it holds up nobody


class Prompts(NamedTuple):
    """Token ids, one list a prompt."""

    tokens: list[tuple[int, ...]]
    warnings: list[str]


async def read_prompts(tokenizer: Any, prompts: Sequence[Prompt], max_tokens: int) -> Prompts:
    """Encode prompts.

    Raises:
        Problem: 422 where one is too long, or holds an id that there is not.
        UserError: one is no Unicode text.
    """
    characters = sum(map(len, prompts))
    if characters > _LONG:
        return await asyncio.to_thread(_read, tokenizer, prompts, max_tokens)
    return _read(tokenizer, prompts, max_tokens)


def _read(tokenizer: Any, prompts: Sequence[Prompt], max_tokens: int) -> Prompts:
    unknown: Counter[str] = Counter()
    rows = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids, strange = tokenizer.encode_with_unknowns(prompt)
            unknown += strange
            row = tuple(ids.tolist())
        else:
            row = tuple(prompt)
            wrong = [token for token in row if not 0 <= token < tokenizer.vocab_size]
            if wrong:
                raise Problem(
                    422,
                    f"`prompt` must hold token ids in [0, {tokenizer.vocab_size}), got {wrong[0]}",
                    field="prompt",
                )
        if len(row) > max_tokens:
            raise Problem(
                422,
                f"`prompt` must have at most {max_tokens} tokens, got {len(row)}; send less of it",
                field="prompt",
            )
        rows.append(row)
    return Prompts(rows, [unknown_message(unknown, "`prompt`")] if unknown else [])
