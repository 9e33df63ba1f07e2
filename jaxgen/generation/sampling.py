"""`SamplingParams`: how the next token is chosen, as one pytree of traced values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError


class _Number(NamedTuple):
    """What a numeric field may hold: a scalar, or one value a row."""

    dtype: Any
    rule: str
    holds: Callable[[np.ndarray], Any]
    way_out: str


_TOKENS = {"tokens": True}
_FINITE = _Number(np.float32, "finite", np.isfinite, "use 0.0 to disable")
_MASS = _Number(np.float32, "in (0, 1]", lambda x: (x > 0) & (x <= 1), "use 1.0 to disable")
_SHARE = _Number(np.float32, "in [0, 1]", lambda x: (x >= 0) & (x <= 1), "use 0.0 to disable")
_COUNT = _Number(np.int32, "0 or more", lambda x: x >= 0, "use 0 to disable")
_TOP_K = _COUNT._replace(way_out="0 keeps every token")
_TEMPERATURE = _Number(
    np.float32, "finite and 0 or more", lambda x: np.isfinite(x) & (x >= 0), "0 is greedy"
)
_FACTOR = _Number(np.float32, "above 0", lambda x: np.isfinite(x) & (x > 0), "use 1.0 to disable")


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class SamplingParams:
    """How each row's next token is chosen. A pytree: every value is traced.

    A number is a scalar or one value a row, [B]. A list of tokens is one list for all rows, [K], or
    one a row, [B, K] (lists of different lengths are padded with -1). `None` is absent: it costs
    nothing and is part of the structure; values may change from call to call without a retrace.
    Values given as Python numbers are checked here; traced ones cannot be, see each field.

    The names that `transformers` has too mean the same here and apply in its order: penalties and
    bans, then temperature, top-k, top-p, min-p, typical-p. The differences: of tokens tied at the
    `top_k`-th place the lower ids stay, so that exactly k do; tokens tied at the edge of `top_p`
    stay together or go together.

    Attributes:
        temperature: divides the logits; 0 is greedy (of equals the lowest id).
            Traced: below 0 or NaN is greedy.
        top_k: keep the k most likely tokens; 0 keeps all. Traced: at most `max_top_k`, 0 means so.
        top_p: keep a token while those strictly more likely hold less than `top_p` of the mass
            (Holtzman et al., 2020). Traced: 0 or less keeps the most likely, above 1 all.
        min_p: keep tokens at least `min_p` times as likely as the likeliest (Nguyen et al., 2024).
        typical_p: keep the tokens whose surprise is nearest the entropy, up to this mass
            (Meister et al., 2022).
        repetition_penalty: divides positive and multiplies negative logits of all tokens in the
            prompt and the text so far (Keskar et al., 2019).
        presence_penalty: subtracted from the logit of each token generated so far.
        frequency_penalty: subtracted as many times as the token was generated so far.
        no_repeat_ngram: never generate an n-gram twice (prompt included); 0 allows it.
        min_new_tokens: no stop token before so many tokens.
        banned_tokens: never generated.
        forced_tokens: the first tokens, whatever the logits; -1 leaves a place free.
        stop_tokens: a row ends with the first of these (it is part of the tokens).
        max_top_k: static; the largest `top_k` of the compiled program. Default: from the values.
    """

    temperature: Any = field(default=1.0, metadata={"number": _TEMPERATURE})
    top_k: Any = field(default=None, metadata={"number": _TOP_K})
    top_p: Any = field(default=None, metadata={"number": _MASS})
    min_p: Any = field(default=None, metadata={"number": _SHARE})
    typical_p: Any = field(default=None, metadata={"number": _MASS})
    repetition_penalty: Any = field(default=None, metadata={"number": _FACTOR})
    presence_penalty: Any = field(default=None, metadata={"number": _FINITE})
    frequency_penalty: Any = field(default=None, metadata={"number": _FINITE})
    no_repeat_ngram: Any = field(default=None, metadata={"number": _COUNT})
    min_new_tokens: Any = field(default=None, metadata={"number": _COUNT})
    banned_tokens: Any = field(default=None, metadata=_TOKENS)
    forced_tokens: Any = field(default=None, metadata=_TOKENS)
    stop_tokens: Any = field(default=None, metadata=_TOKENS)
    max_top_k: int | None = None

    def __post_init__(self) -> None:
        """Check and convert what is concrete; UserError for a value out of range."""
        for name, value in self.items():
            convert = _check_tokens if name in TOKEN_LISTS else _check_number
            object.__setattr__(self, name, convert(name, value))
        if self.temperature is None:
            _fail("temperature", "a number or one a row", None, "1.0 leaves the logits as they are")
        object.__setattr__(self, "max_top_k", self._cap(self.max_top_k))

    def _cap(self, cap: int | None) -> int | None:
        """A power of two that holds `top_k`, so that near values share a program; -1 is V."""
        if self.top_k is None:
            return None
        if not isinstance(self.top_k, np.ndarray):
            if cap is None:
                _fail("max_top_k", "given where `top_k` is traced", None, "for example 64")
            return cap
        largest, smallest = int(self.top_k.max(initial=1)), int(self.top_k.min(initial=1))
        if cap is None or cap == -1:
            return -1 if smallest == 0 else max(8, 1 << (largest - 1).bit_length())
        if cap < largest:
            _fail("top_k", f"at most `max_top_k`, {cap}", largest, "raise `max_top_k`")
        return cap

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.items())
        return f"SamplingParams({shown})"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], int | None]:
        """The fields by name, and the static cap (JAX calls this)."""
        keys = jax.tree_util.GetAttrKey
        return [(keys(name), getattr(self, name)) for name in _FIELDS], self.max_top_k

    @classmethod
    def tree_unflatten(cls, cap: int | None, leaves: Any) -> "SamplingParams":
        """Back from leaves, which may be anything (JAX calls this)."""
        self = object.__new__(cls)
        for name, leaf in zip(_FIELDS, leaves, strict=True):
            object.__setattr__(self, name, leaf)
        object.__setattr__(self, "max_top_k", cap)
        return self

    @property
    def can_stop(self) -> bool:
        """Whether a row may end before the maximum length."""
        return self.stop_tokens is not None

    def check(self, batch_size: int, vocab_size: int) -> None:
        """UserError where these settings do not fit a batch or a vocabulary."""
        for name, value in self.items():
            wanted = 1 if name in TOKEN_LISTS else 0
            if value.ndim > wanted + 1 or (
                value.ndim == wanted + 1 and value.shape[0] not in (1, batch_size)
            ):
                _fail(
                    name,
                    f"one {'list' if wanted else 'value'} for all or one for each of "
                    f"the {batch_size} rows",
                    f"shape {value.shape}",
                    "match the batch",
                )
            if not isinstance(value, np.ndarray) or value.size == 0:
                continue
            if name == "top_k" and value.max() > vocab_size:
                _fail(name, f"at most the vocabulary of {vocab_size}", value.max(), "use 0 for all")
            if name in TOKEN_LISTS and not ((value >= -1) & (value < vocab_size)).all():
                bad = value[(value < -1) | (value >= vocab_size)][0]
                _fail(name, f"in [0, {vocab_size})", bad, "give token ids of this vocabulary")
        banned = self.banned_tokens
        if isinstance(banned, np.ndarray):
            for row in np.atleast_2d(banned):
                if np.unique(row[row >= 0]).size == vocab_size:
                    _fail("banned_tokens", "fewer than all tokens", vocab_size, "leave one allowed")

    def rows(self, batch_size: int) -> "SamplingParams":
        """The same settings with one value, or one list, for each row."""

        def spread(name: str, value: Any) -> Any:
            tail = value.shape[-1:] if name in TOKEN_LISTS else ()
            dtype = np.int32 if name in TOKEN_LISTS else _NUMBERS[name].dtype
            return jnp.broadcast_to(jnp.asarray(value, dtype), (batch_size, *tail))

        return self.map(spread)

    def map(self, change: Callable[[str, Any], Any]) -> "SamplingParams":
        """The same fields with `change(name, value)` for the value of each that is present."""
        changed = {name: change(name, value) for name, value in self.items()}
        return self.tree_unflatten(self.max_top_k, [changed.get(name) for name in _FIELDS])

    def items(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each field that is present."""
        return ((name, getattr(self, name)) for name in _FIELDS if getattr(self, name) is not None)


# Every list of names below comes from the fields of the class.
_NUMBERS: dict[str, _Number] = {
    of.name: of.metadata["number"] for of in fields(SamplingParams) if "number" in of.metadata
}
TOKEN_LISTS = tuple(of.name for of in fields(SamplingParams) if "tokens" in of.metadata)
"""Names of the fields that hold lists of token ids."""
_FIELDS = (*_NUMBERS, *TOKEN_LISTS)


def _check_number(name: str, value: Any) -> Any:
    """A float32 or int32 array, checked where it is concrete."""
    if isinstance(value, jax.core.Tracer):
        return value
    dtype, rule, holds, way_out = _NUMBERS[name]
    try:
        array = np.asarray(value)
        exact = array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        _fail(name, "a number or one a row", value, way_out)
    if array.dtype.kind not in "iuf" or (dtype is np.int32 and not np.array_equal(exact, array)):
        _fail(name, "a whole number" if dtype is np.int32 else "a number", value, way_out)
    bad = ~np.atleast_1d(holds(exact))
    if bad.any():
        _fail(name, rule, np.atleast_1d(array)[bad][0], way_out)
    return exact


def _check_tokens(name: str, value: Any) -> Any:
    """An int32 array of token ids; lists of different lengths are padded with -1."""
    if isinstance(value, jax.core.Tracer):
        return value
    way_out = "give a list of token ids, or one list a row"
    if isinstance(value, list | tuple) and any(np.ndim(row) == 1 for row in value):
        width = max(len(row) for row in value)
        value = [[*row, *[-1] * (width - len(row))] for row in value]
    array = np.atleast_1d(np.asarray(value))
    if array.size == 0:
        return array.astype(np.int32)
    exact = array.astype(np.int32) if array.dtype.kind in "iu" else None
    if exact is None or not np.array_equal(exact, array):
        _fail(name, "whole numbers of 32 bits", value, way_out)
    return exact


def _fail(name: str, rule: str, value: Any, way_out: str) -> NoReturn:
    raise UserError(f"`{name}` must be {rule}, got {value}; {way_out}")
