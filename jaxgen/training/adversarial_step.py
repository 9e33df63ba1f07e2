"""One step of a training with several phases, each of which moves its own part of the parameters.

As `jaxgen.training.step` knows a model by its loss, so does this: a phase has a loss,
``loss_fn(params, extra, batch, key, step) -> (loss, aux)``, of all parts and what the training
remembers beside them, and names the part that moves. A GAN has a phase for its generator and one
for its discriminator, so that any number of steps of the one may follow the other: the batches say
which, see `jaxgen.training.phases`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.training.phases import PhasedBatch
from jaxgen.training.step import (
    INLINE,
    Metrics,
    TrainState,
    TrainStep,
    kept_if_finite,
    means,
    step_key,
    weighted,
)
from jaxgen.training.updates import kept_where, updated
from jaxgen.types import Array, LossAux, PyTree, Sum

PhaseLoss = Callable[[Any, Any, Any, Any, Any], tuple[Array, LossAux]]


class Phase(NamedTuple):
    """What a step of one kind does."""

    part: str
    """The part of the parameters that moves."""
    loss_fn: PhaseLoss
    """See the head of this file."""
    tx: optax.GradientTransformation
    """The optimizer."""
    optimizer: str
    """Name of its state. Phases of one part that share the name must share the optimizer."""
    next_extra: Callable[[PyTree, dict[str, Sum]], PyTree] | None = None
    """What is remembered after the step, given what was and the step's sums over all devices."""
    copy_to: str | None = None
    """Another part that becomes a copy of this one after the step: the pre-trained model to compare
    with."""


def init_adversarial_state(
    params: dict[str, PyTree], phases: Sequence[Phase], key: Array, extra: PyTree = ()
) -> TrainState:
    """The state before the first step.

    Args:
        params: Initial parameters by part; parts that are copied to are among them.
        phases: All that there are.
        key: Random key of the whole run.
        extra: What is remembered beside the parameters.
    """
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state={phase.optimizer: phase.tx.init(params[phase.part]) for phase in phases},
        carry=(),
        key=key,
        average=(),
        finite=jnp.bool_(True),
        extra=extra,
    )


def make_adversarial_step(phases: Sequence[Phase], *, axis_name: str | None = None) -> TrainStep:
    """One update of one part from one `PhasedBatch`.

    A loss or gradient that is not finite leaves the whole state as it was, but for `finite`.

    Args:
        phases: By the number that the batches call them.
        axis_name: Mapped axis of `jaxgen.training.parallel` over which gradients are summed. The
            mean over devices counts each by its `aux.weight`.

    Returns:
        train_step(state, batch) -> (state, metrics), to be jitted by the caller. The metrics have
        the sums of all phases; those of other phases than the step's have the weight 0.
    """
    # Traced once, for the names of its sums and for its body.
    updates = [jax.jit(partial(_update, phase, axis_name), inline=INLINE) for phase in phases]

    def train_step(state: TrainState, batch: PhasedBatch) -> tuple[TrainState, Metrics]:
        key = step_key(state, axis_name)
        shapes = [jax.eval_shape(update, state, batch.batch, key)[1] for update in updates]
        names = {name: shape for each in shapes for name, shape in each.sums.items()}
        blank = shapes[0]._replace(sums=names)
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
        for number, update in enumerate(updates):
            state, metrics = _if_asked(
                batch.phase[0] == number, update, state, metrics, batch.batch, key
            )
        return state, metrics

    return train_step


def _if_asked(
    asked: Array, update: Callable, state: TrainState, metrics: Metrics, batch: PyTree, key: Array
) -> tuple[TrainState, Metrics]:
    """The step where it is asked for, as a loop of one pass or none.

    A conditional of XLA copies what it hands on, the state of all parts at every step; a loop
    leaves it where it is.
    """

    def body(memory: tuple[Array, TrainState, Metrics]) -> tuple[Array, TrainState, Metrics]:
        _, state, metrics = memory
        state, new = update(state, batch, key)
        return jnp.bool_(False), state, new._replace(sums=metrics.sums | new.sums)

    _, state, metrics = jax.lax.while_loop(lambda memory: memory[0], body, (asked, state, metrics))
    return state, metrics


def _update(
    phase: Phase, axis_name: str | None, state: TrainState, batch: PyTree, key: Array
) -> tuple[TrainState, Metrics]:
    """A step of one phase."""

    def loss_fn(own: PyTree) -> tuple[Array, LossAux]:
        params = {**state.params, phase.part: own}
        return phase.loss_fn(params, state.extra, batch, key, state.step)

    old = state.params[phase.part]
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(old)
    grads, metrics = means(state, weighted(loss, aux, grads), axis_name)
    own, opt_state = updated(
        phase.tx,
        grads,
        state.opt_state[phase.optimizer],
        old,
        norm=metrics.grad_norm,
        finite=metrics.finite,
    )
    moved = {phase.part: own}
    if phase.copy_to:
        moved[phase.copy_to] = kept_where(metrics.finite, own, state.params[phase.copy_to])
    new = state._replace(
        step=state.step + 1,
        params=state.params | moved,
        opt_state=state.opt_state | {phase.optimizer: opt_state},
        extra=phase.next_extra(state.extra, metrics.sums) if phase.next_extra else state.extra,
        finite=metrics.finite,
    )
    return kept_if_finite(new, state), metrics
