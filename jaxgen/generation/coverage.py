"""Coverage of a source: how much attention a text has paid to each of its tokens.

A step function that attends to a source says so by a method beside its call,

    step_fn.attention(params, carry) -> (weights Float[B, S], mask Bool[B, S])

the weights that it predicted the last logits with, out of the carry that came with them, and which
places of the source are real. Before the first step any weights of that shape will do.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.generation.decoding import StepFn, prepared, restricted
from jaxgen.types import Array, Bool, Float, Int, PyTree


def attention(
    step_fn: Any, params: PyTree, carry: PyTree
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """What a step function says that it attended to."""
    weights, mask = step_fn.attention(params, carry)
    return weights, mask


class CoverageCarry(NamedTuple):
    """The state of a model and what it has attended to so far."""

    carry: PyTree
    """The model's own."""
    coverage: Float[Array, "B S"]
    """Sum of the attention weights over the steps."""


@dataclass(frozen=True)
class CoverageStep:
    """A step function with the sum of its attention weights in the carry."""

    step_fn: StepFn

    def __call__(
        self, params: PyTree, carry: CoverageCarry, tokens: Int[Array, "B"]
    ) -> tuple[CoverageCarry, Float[Array, "B V"]]:
        """One step."""
        after, logits = self.step_fn(params, carry.carry, tokens)
        weights = attention(self.step_fn, params, after)[0]
        return CoverageCarry(after, carry.coverage + weights.astype(jnp.float32)), logits

    def prepare(self, params: PyTree) -> PyTree:
        """The parameters as the model's own loop wants them."""
        return prepared(self.step_fn, params)

    @property
    def restrict(self) -> Any:
        """That of the step function, if it has one."""
        return self._restrict if getattr(self.step_fn, "restrict", None) else None

    def _restrict(self, params: PyTree, carry: CoverageCarry, logits: Array) -> Array:
        return restricted(self.step_fn, params, carry.carry, logits)


def start_coverage(step_fn: StepFn, params: PyTree, carry: PyTree) -> CoverageCarry:
    """The carry of `CoverageStep` before anything was read."""
    weights, _ = _shapes(step_fn, params, carry)
    return CoverageCarry(carry, jnp.zeros(weights.shape, jnp.float32))


def log_coverage(step: CoverageStep, params: PyTree, carry: CoverageCarry) -> Float[Array, "B"]:
    """`sum_s log(min(coverage_s, 1))` over the real places of the source, 0 at most.

    That of equation 14 of Wu et al. (2016). A place without any attention counts as the smallest
    float32, so that the sum stays finite.
    """
    mask = attention(step.step_fn, params, carry.carry)[1]
    share = jnp.clip(carry.coverage, jnp.finfo(jnp.float32).tiny, 1.0)
    return jnp.where(mask, jnp.log(share), 0.0).sum(axis=1)


def check_has_attention(step_fn: StepFn) -> None:
    """UserError for a step function that does not say what it attends to."""
    if getattr(step_fn, "attention", None) is None:
        name = getattr(step_fn, "__name__", type(step_fn).__name__)
        raise UserError(
            "`coverage_penalty` needs a model with attention: a step function with a method "
            f"`attention(params, carry) -> (weights, mask)`, got {name} without one; leave "
            "`coverage_penalty` out"
        )


def check_attends(step_fn: StepFn, params: PyTree, carry: PyTree) -> None:
    """UserError for a step function that does not say, or not rightly, what it attends to."""
    check_has_attention(step_fn)
    weights, mask = _shapes(step_fn, params, carry)
    if weights.ndim != 2 or weights.shape != mask.shape:
        raise UserError(
            "`attention` of the step function must return weights and a mask of one shape [B, S], "
            f"got {list(weights.shape)} and {list(mask.shape)}"
        )


def _shapes(step_fn: Any, params: PyTree, carry: PyTree) -> tuple[Any, Any]:
    """Shapes of the weights and of the mask."""

    def shown(params: PyTree, carry: PyTree) -> Any:
        return step_fn.attention(prepared(step_fn, params), carry)

    weights, mask = jax.eval_shape(shown, params, carry)
    return weights, mask
