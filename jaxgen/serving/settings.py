"""What a text asks for, as arrays that one program takes for all texts; checked before it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.checks import check_key
from jaxgen.generation.largest import searches_blocks
from jaxgen.generation.lines import Ending
from jaxgen.generation.requests import Options, Request, check_options, make_request
from jaxgen.generation.sampling import SamplingParams
from jaxgen.generation.stop_strings import StopStrings
from jaxgen.generation.text import TextModel
from jaxgen.serving.requests import MOST_LOGPROBS, Generation
from jaxgen.types import Int

LISTS = {"banned_tokens": 64, "forced_tokens": 64, "stop_tokens": 16}
"""Tokens that a list of a text may hold; what is free is -1, which names none."""
_OFF: Mapping[str, float] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram": 0,
    "min_new_tokens": 0,
}
"""The values with which a setting does nothing: the tokens are those of a program without it."""
_WHOLE = ("top_k", "no_repeat_ngram", "min_new_tokens")

_PLAIN = ("temperature", "banned_tokens", "stop_tokens")
_FILTERS = ("top_k", "top_p", "min_p")
_PENALTIES = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("min_new_tokens", "forced_tokens"),
)
_ALL = (*_PLAIN, *_FILTERS, *_PENALTIES)
_FIELDS = (*_OFF, *LISTS)
_OTHERS = ("max_new_tokens", "key", "stop", "after", "max_top_k")
"""Options that are fields of a `Generation`, or of no use to one."""


class Kind(NamedTuple):
    """What divides texts by programs that cannot run each other's: each kind has its own slots.

    Nearly all texts are of the first kind, `Kind()`.
    """

    labels: int = 0
    """Labels of guidance: each is another pass of the model; 0 runs the model itself."""
    max_top_k: int = -1
    """Of a large vocabulary only so many candidates are looked at."""
    typical: bool = False
    """Whether there is `typical_p`, beside which `top_p` is found without rejecting draws."""
    ngrams: bool = False
    """Whether the text so far is kept, for `no_repeat_ngram`."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Settings that there are."""
        return (
            *_ALL,
            *(("typical_p",) if self.typical else ()),
            *(("no_repeat_ngram",) if self.ngrams else ()),
        )

    @property
    def fewest(self) -> tuple[str, ...]:
        """Settings that the cheapest program looks at; the other one looks at all."""
        return _PLAIN if self == Kind() else self.fields


@dataclass(frozen=True, eq=False)
class Asked:
    """A text, ready to run."""

    generation: Generation
    kind: Kind
    plain: bool
    """Whether the cheapest program runs it, without log-probabilities and few settings."""
    request: Request
    sampling: SamplingParams
    """Without an axis of rows."""
    prompt: Int[np.ndarray, "P"]
    """What is read, which may begin with a token that the request does not name."""
    seed: np.uint32


class _TokenIds(NamedTuple):
    """A tokenizer whose texts are token ids already."""

    start_id: int
    vocab_size: int
    special_ids: Any

    def encode(self, prompt: Any) -> Int[np.ndarray, "P"]:
        """As an array."""
        return np.array(prompt, np.int32)


def ask(lm: TextModel, generation: Generation) -> Asked:
    """Check what is asked of a model; UserError where it does not fit."""
    options = dict(generation.options)
    check_options(options, [name for name in Options.__annotations__ if name not in _OTHERS])
    for name, value in options.items():
        if name not in LISTS and np.ndim(value):
            raise UserError(f"`{name}` must be one value for a text, got {value}")
    _check_numbers(generation)
    tokenizer = lm.tokenizer
    bad = [token for token in generation.prompt if not 0 <= token < tokenizer.vocab_size]
    if bad:
        raise UserError(
            f"`prompt` must hold token ids in [0, {tokenizer.vocab_size}), got {bad[0]}; "
            "give ids of this model's vocabulary"
        )
    StopStrings(generation.stop)
    request = make_request(
        _TokenIds(tokenizer.start_id, tokenizer.vocab_size, getattr(tokenizer, "special_ids", ())),
        [list(generation.prompt)],
        {**options, "after": generation.after},
        num_labels=lm.num_labels,
        labels=lm.labels,
        ending=ending_of(lm),
        whole_texts=lm.end_token is not None,
    )
    kind = _kind(request, tokenizer.vocab_size)
    row = {name: value for name, value in request.sampling.items() if _acts(name, value)}
    plain = row.keys() <= {*kind.fewest} and generation.num_logprobs is None
    sampling = _neutral(row, kind)
    seed = check_key(generation.seed, 1)
    return Asked(generation, kind, plain, request, sampling, request.prompts[0], seed)


def ending_of(lm: TextModel) -> Ending:
    """How texts of a model end, as in `TextModel.generate`."""
    if lm.constraint is None:
        return Ending(lm.end_token)
    end = lm.constraint.end_token
    return Ending(lm.end_token if end is None else end, whole=True)


def _check_numbers(generation: Generation) -> None:
    for name, lowest in (("max_new_tokens", 0), ("row", 0), ("tokens_per_chunk", 1)):
        value = getattr(generation, name)
        if value is None and name == "tokens_per_chunk":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise UserError(f"`{name}` must be a whole number of at least {lowest}, got {value}")
    count = generation.num_logprobs
    if count is not None and not 0 <= count <= MOST_LOGPROBS:
        raise UserError(
            f"`num_logprobs` must be in [0, {MOST_LOGPROBS}], got {count}; "
            "None gives no log-probabilities"
        )
    if not isinstance(generation.seed, int):
        raise UserError(f"`seed` must be a whole number, got {generation.seed!r}")


def _kind(request: Request, vocab_size: int) -> Kind:
    labels = 0
    if request.guided:
        guidance: Any = request.after.carry if request.after is not None else request.condition
        labels = guidance.weights.shape[1]
    sampling, cap = request.sampling, -1
    if sampling.top_k is not None:
        found = sampling.max_top_k
        if found is not None and found > 0 and searches_blocks(vocab_size, found):
            cap = found
    ngrams = sampling.no_repeat_ngram is not None and bool(np.any(sampling.no_repeat_ngram > 0))
    return Kind(labels, cap, sampling.typical_p is not None, ngrams)


def _acts(name: str, value: Any) -> bool:
    """Whether a setting does anything."""
    return bool(np.any(value >= 0)) if name in LISTS else bool(np.any(value != _OFF[name]))


def _neutral(row: Mapping[str, Any], kind: Kind) -> SamplingParams:
    """All settings of a kind; those that the text does not have do nothing."""
    found: dict[str, Any] = {}
    for name in kind.fields:
        value = row.get(name)
        if name in LISTS:
            found[name] = _padded(name, value)
        else:
            dtype = np.int32 if name in _WHOLE else np.float32
            value = _OFF[name] if value is None else np.reshape(value, ())
            found[name] = np.asarray(value, dtype)
    leaves = [found.get(name) for name in SamplingParams.__annotations__ if name != "max_top_k"]
    return SamplingParams.tree_unflatten(kind.max_top_k, leaves)


def _padded(name: str, value: Any) -> Int[np.ndarray, "K"]:
    """A list of tokens at its full width."""
    padded = np.full(LISTS[name], -1, np.int32)
    if value is not None:
        tokens = np.ravel(value)
        tokens = tokens if name == "forced_tokens" else np.unique(tokens[tokens >= 0])
        if len(tokens) > LISTS[name]:
            raise UserError(
                f"`{name}` must hold at most {LISTS[name]} tokens here, got {len(tokens)}; "
                "generate without the service for longer lists"
            )
        padded[: len(tokens)] = tokens
    return padded


def stacked(rows: list[Any], count: int) -> Any:
    """Trees as one with the rows first, the first of them repeated up to `count`."""
    rows = rows + [rows[0]] * (count - len(rows))
    return jax.tree.map(lambda *xs: np.stack(xs), *rows)


def joined_rows(rows: list[Any], count: int) -> Any:
    """Trees of one row each as one of `count`; scalars, which all rows share, stay."""
    rows = rows + [rows[0]] * (count - len(rows))
    return jax.tree.map(
        lambda *xs: np.concatenate([np.asarray(x) for x in xs]) if np.ndim(xs[0]) else xs[0], *rows
    )
