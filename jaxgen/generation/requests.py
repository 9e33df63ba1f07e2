"""From prompts, settings and counts to rows: who continues which prompt under which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.carry import Reading
from jaxgen.generation.sampling import TOKEN_LISTS, SamplingParams

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


@dataclass(frozen=True)
class Request:
    """What is asked of a model: prompts to read, and rows that continue them."""

    prompts: list[np.ndarray]
    """Token ids to read, one array a prompt; may be empty after a reading."""
    context: list[np.ndarray]
    """Token ids that the new text follows, one array a prompt."""
    rows: np.ndarray
    """The prompt that each row continues."""
    sampling: SamplingParams
    """Settings of each row."""
    labels: np.ndarray | None
    """One a prompt."""
    after: Reading | None
    """One row a prompt."""
    single: bool
    """One prompt and one value a setting: the answer is not in a list."""


def make_request(
    tokenizer: Any,
    prompt: Prompts,
    settings: dict[str, Any],
    n: int | None = None,
    labels: Any = None,
    after: Reading | None = None,
) -> Request:
    """Check and align what was asked; UserError where it does not fit together."""
    if n is not None and n < 1:
        raise UserError(f"`n` must be at least 1, got {n}")
    sampling = _settings(settings)
    single = is_one(prompt)
    prompts: list[Any] = [prompt] if single else list(prompt)
    if not prompts:
        raise UserError("`prompt` must hold at least one text, got an empty list")
    labels = None if labels is None else np.asarray(labels, np.int32)
    several = {
        "labels": labels.shape[0] if labels is not None and labels.ndim else 1,
        "after": 1 if after is None else after.token.shape[0],
        **{name: _values(name, value) for name, value in sampling.items()},
    }
    count = len(prompts)
    for name, size in several.items():
        if count == 1 and size > 1:
            count, single = size, False
        elif size not in (1, count):
            raise UserError(
                f"`{name}` must hold one value or one for each of the {count} texts, got {size}"
            )
    shared = len(prompts) == 1 and max(several["labels"], several["after"]) == 1
    if len(prompts) == 1 and not shared:
        prompts = prompts * count
    sampling.check(count, tokenizer.vocab_size)
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    if after is None:
        encoded = [x if len(x) else np.array([tokenizer.start_id], np.int32) for x in encoded]
        context = encoded
    else:
        last = np.broadcast_to(np.asarray(after.token), (len(prompts),))
        context = [np.append(token, x) for token, x in zip(last, encoded, strict=True)]
        times = len(prompts) // after.token.shape[0]
        after = jax.tree.map(lambda x: np.repeat(np.asarray(x), times, 0), after)
    if labels is not None:
        labels = np.broadcast_to(labels, (len(prompts),))
    rows = np.zeros(count, np.int32) if shared else np.arange(count, dtype=np.int32)
    repeats = n or 1
    sampling = sampling.map(
        lambda name, value: np.repeat(value, repeats, axis=0) if _values(name, value) > 1 else value
    )
    return Request(encoded, context, np.repeat(rows, repeats), sampling, labels, after, single)


def is_one(prompt: Prompts) -> bool:
    """Whether this is one prompt, not a list of them."""
    if isinstance(prompt, str):
        return True
    return len(prompt) > 0 and all(isinstance(token, int | np.integer) for token in prompt)


def _settings(settings: dict[str, Any]) -> SamplingParams:
    known = list(SamplingParams.__annotations__)
    if wrong := sorted(set(settings) - set(known)):
        raise UserError(f"there is no setting `{wrong[0]}`; there are {', '.join(known)}")
    return SamplingParams(**settings)


def _values(name: str, value: np.ndarray) -> int:
    """How many rows a setting holds values for; 1 where it is for all."""
    return value.shape[0] if value.ndim > (name in TOKEN_LISTS) else 1
