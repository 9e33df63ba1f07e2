"""Text models with a continuous cache."""

from dataclasses import dataclass, replace
from typing import Any

from jaxgen.errors import UserError
from jaxgen.generation.cache import (
    CacheCarry,
    CachedParams,
    cached,
    cached_carry,
    cached_params,
)
from jaxgen.generation.checks import check_at_least_one
from jaxgen.generation.decoding import StepFn
from jaxgen.generation.programs import InitialCarry
from jaxgen.generation.text import TextModel
from jaxgen.types import PyTree


@dataclass(frozen=True)
class CachedInitialCarry:
    """`initial_carry(params, batch_size, condition)` of a model with a cache."""

    step_fn: StepFn
    """The model's own, as its `initial_carry`."""
    initial_carry: InitialCarry
    window: int

    def __call__(self, params: CachedParams, batch_size: int, condition: PyTree) -> CacheCarry:
        """The carry before the first token."""
        carry = self.initial_carry(params.params, batch_size, condition)
        return cached_carry(self.step_fn, params, carry, self.window)


def cached_model(lm: TextModel, window: int, theta: Any, lambda_: Any) -> TextModel:
    """A text model that mixes in what followed states like the present one, see `cached`.

    Its prompt is in the cache, and so is its own new text. `jaxgen.with_cache` finds theta and
    lambda.

    Args:
        lm: the model.
        window: tokens to remember.
        theta: see `jaxgen.generation.cache.cached_params`; another value is no other program.
        lambda_: likewise.

    Raises:
        UserError: a setting is out of its range, or the model does not give its hidden states.
    """
    check_at_least_one(cache=window)
    if not hasattr(lm.step_fn, "with_hidden"):
        raise UserError(
            "a cache needs the hidden states of one model, and this one does not give them (an "
            "ensemble has several); use the runs one by one, or give its step function a method "
            "`with_hidden` that returns (carry, logits, hidden)"
        )
    prefill_fn = lm.prefill_fn
    if prefill_fn is not None:  # one that gives no hidden states is of no use
        prefill_fn = cached(prefill_fn) if hasattr(prefill_fn, "with_hidden") else None
    return replace(
        lm,
        params=cached_params(lm.params, theta, lambda_),
        step_fn=cached(lm.step_fn),
        prefill_fn=prefill_fn,
        initial_carry=CachedInitialCarry(lm.step_fn, lm.initial_carry, window),
    )
