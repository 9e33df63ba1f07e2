"""What is asked of a text model: options checked, prompts and settings aligned to rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypedDict, TypeVar

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.carry import PromptState
from jaxgen.generation.guidance import Guidance, GuidedCarry
from jaxgen.generation.labels import read_steering
from jaxgen.generation.lines import GOES_ON, Ending
from jaxgen.generation.sampling import TOKEN_LISTS, SamplingParams
from jaxgen.types import PyTree

Prompt = str | Sequence[int]
"""One text, or the integers of an integer tokenizer."""
Prompts = list[str] | tuple[str, ...] | list[list[int]]
"""Several of them."""
Tokens = Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None
"""Token ids for all rows, or a list of them a row."""
Label = str | int
"""A label's name or id, or several as `joy=0.7,fear=0.3` or `not:anger`."""
Value = TypeVar("Value")
Labels = TypeVar("Labels")


class SharedOptions(TypedDict, Generic[Value, Labels], total=False):
    """What every way of continuing a prompt takes. `Value` and `Labels`: one, or also one a row."""

    max_new_tokens: int
    """Tokens to generate at most."""
    key: int | jax.Array
    """A seed or a jax key; the text is a function of it. Each text of a list has its own, folded
    from it by the place in the list."""
    stop: str | Sequence[str] | None
    """End a text before the first of these strings."""
    label: Labels | None
    """What a conditioned model writes about; one, or one a prompt: a name, an id, several with
    their weights (`"joy=0.7,fear=0.3"`), or one to steer away from (`"not:anger"`). None is the
    null label."""
    guidance: Value | None
    """How strongly: 0 is the null label, 1 plain conditioning, more exaggerates. It multiplies the
    weights of the labels; see `jaxgen.generation.guidance`."""
    after: PromptState | None
    """Continue from a state (see `TextModel.prefill`), one row for all prompts or one each.
    Penalties know only the text from there on."""
    allow_special: bool
    """Let the special tokens besides the end (`<unk>`, `<pad>`, `<bos>`) be generated too."""
    no_repeat_ngram: Value | None
    """This and the others here: see `SamplingParams`."""
    min_new_tokens: Value | None
    banned_tokens: Tokens
    stop_tokens: Tokens


class Options(SharedOptions[Value, Labels], Generic[Value, Labels], total=False):
    """What `TextModel.generate` and `stream` take; all besides the above is `SamplingParams`."""

    temperature: Value
    top_k: Value | None
    top_p: Value | None
    min_p: Value | None
    typical_p: Value | None
    repetition_penalty: Value | None
    presence_penalty: Value | None
    frequency_penalty: Value | None
    forced_tokens: Tokens
    max_top_k: int | None


class SampleOptions(Options[Value, Labels], Generic[Value, Labels], total=False):
    """What `TextModel.sample` takes."""

    logprobs: bool
    """Whether to give log-probabilities."""


OneOrEach = float | Sequence[float] | np.ndarray
LabelOrEach = Label | Sequence[Label] | np.ndarray


class One(Options[float, Label], total=False):
    """One value a setting."""


class Each(Options[OneOrEach, LabelOrEach], total=False):
    """One value a setting, or one a row."""


class ReadOne(TypedDict, total=False):
    """What reading a prompt takes, one value an option."""

    label: Label | None
    guidance: float | None
    after: PromptState | None


class ReadEach(TypedDict, total=False):
    """The same, one value an option or one a row."""

    label: LabelOrEach | None
    guidance: OneOrEach | None
    after: PromptState | None


class SampleOne(SampleOptions[float, Label], total=False):
    """One value a setting."""


class SampleEach(SampleOptions[OneOrEach, LabelOrEach], total=False):
    """One value a setting, or one a row."""


SETTINGS = tuple(SamplingParams.__annotations__)


@dataclass(frozen=True)
class Request:
    """What is asked of a model: prompts to read, and rows that continue them."""

    prompts: list[np.ndarray]
    """Token ids to read, one array a prompt; may be empty after a state."""
    context: list[np.ndarray]
    """Token ids that the new text follows, one array a prompt."""
    rows: np.ndarray
    """The prompt that each row continues."""
    sampling: SamplingParams
    """Settings of each row."""
    condition: PyTree
    """What the model is conditioned on, one row a prompt; None where it is not."""
    guided: bool
    """Whether the model runs under guidance: the condition is a `Guidance`, or the state that is
    continued is a guided one."""
    after: PromptState | None
    """One row a prompt."""
    single: bool
    """One prompt and one value a setting: the answer is not in a list."""
    ending: Ending
    """How its texts end."""


def make_request(
    tokenizer: Any,
    prompt: Prompt | Sequence[Prompt],
    options: Mapping[str, Any],
    *,
    n: int | None = None,
    num_labels: int = 0,
    labels: Sequence[str] = (),
    ending: Ending = GOES_ON,
    whole_texts: bool = False,
) -> Request:
    """Check and align what was asked; UserError where it does not fit together.

    Args:
        tokenizer: see `TextModel`.
        prompt: one or several.
        options: of the request: `label`, `guidance`, `after`, `allow_special` and settings; others
            are not looked at.
        n: texts a prompt, or None.
        num_labels: labels of the model.
        labels: their names.
        ending: how texts of the model end.
        whole_texts: whether a prompt is the beginning of a text, and so stands after what an empty
            one starts from.
    """
    if n is not None and n < 1:
        raise UserError(f"`n` must be at least 1, got {n}")
    special = () if options.get("allow_special") else getattr(tokenizer, "special_ids", ())
    settings = {name: options[name] for name in SETTINGS if name in options}
    sampling = _ending_with(ending.token, _sampling(settings, tuple(special)))
    after, steering = options.get("after"), read_steering(options, labels, num_labels)
    single = is_one(prompt)
    prompts: list[Any] = [prompt] if single else list(prompt)
    if not prompts:
        raise UserError("`prompt` must hold at least one text, got an empty list")
    several = {} if steering is None else steering.sizes
    several["after"] = 1 if after is None else after.token.shape[0]
    shared = len(prompts) == 1 and max(several.values()) == 1
    several |= {name: _values(name, value) for name, value in sampling.items()}
    count = len(prompts)
    for name, size in several.items():
        if count == 1 and size > 1:
            count, single = size, False
        elif size not in (1, count):
            raise UserError(
                f"`{name}` must hold one value or one for each of the {count} texts, got {size}"
            )
    if len(prompts) == 1 and not shared:
        prompts = prompts * count
    sampling.check(count, tokenizer.vocab_size)
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    if after is None:
        start = np.array([tokenizer.start_id], np.int32)
        encoded = [np.append(start, x) if whole_texts or not len(x) else x for x in encoded]
        context = encoded
    else:
        last = np.broadcast_to(np.asarray(after.token), (len(prompts),))
        context = [np.append(token, x) for token, x in zip(last, encoded, strict=True)]
        after = _repeated(after, len(prompts) // after.token.shape[0])
    condition = None if steering is None else steering.condition(len(prompts))
    guided = isinstance(condition, Guidance) or (
        num_labels > 0 and after is not None and isinstance(after.carry, GuidedCarry)
    )
    rows = np.zeros(count, np.int32) if shared else np.arange(count, dtype=np.int32)
    repeats = n or 1
    sampling = sampling.map(
        lambda name, value: np.repeat(value, repeats, axis=0) if _values(name, value) > 1 else value
    )
    rows = np.repeat(rows, repeats)
    return Request(encoded, context, rows, sampling, condition, guided, after, single, ending)


def _repeated(after: PromptState, times: int) -> PromptState:
    if times == 1:  # or a JAX array would be repeated by a program, which is compiled first
        return after
    return jax.tree.map(lambda x: np.repeat(x, times, axis=0) if np.ndim(x) else x, after)


def is_one(prompt: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is one prompt, not a list of them."""
    if isinstance(prompt, str):
        return True
    return len(prompt) > 0 and all(isinstance(token, int | np.integer) for token in prompt)


def check_options(options: Iterable[str], known: Iterable[str]) -> None:
    """UserError for an option that is not known."""
    if wrong := sorted(set(options) - set(known)):
        raise UserError(f"there is no option `{wrong[0]}`; there are {', '.join(known)}")


def _sampling(settings: Mapping[str, Any], special: tuple[int, ...]) -> SamplingParams:
    """The settings, with the special tokens banned that no list of the user's names."""
    if special and not settings.keys() & set(TOKEN_LISTS):
        return SamplingParams(**settings, banned_tokens=np.asarray(special, np.int32))
    sampling = SamplingParams(**settings)
    named = [sampling.stop_tokens, sampling.forced_tokens]
    asked = {int(token) for tokens in named if tokens is not None for token in tokens.flat}
    special = tuple(token for token in special if token not in asked)
    if not special:
        return sampling
    banned = np.asarray(special, np.int32)
    if (given := sampling.banned_tokens) is not None:
        banned = np.broadcast_to(banned, (*given.shape[:-1], banned.size))
        banned = np.concatenate([given, banned], axis=-1)
    return SamplingParams(**{**settings, "banned_tokens": banned})


def _ending_with(token: int | None, sampling: SamplingParams) -> SamplingParams:
    """The settings with one more stop token."""
    if token is None:
        return sampling
    stops, end = sampling.stop_tokens, np.array([token], np.int32)
    if stops is not None:
        end = np.concatenate([stops, np.broadcast_to(end, (*stops.shape[:-1], 1))], axis=-1)
    return replace(sampling, stop_tokens=end)


def _values(name: str, value: np.ndarray) -> int:
    """How many rows a setting holds values for; 1 where it is for all."""
    return value.shape[0] if value.ndim > (name in TOKEN_LISTS) else 1
