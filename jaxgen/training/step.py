"""One optimizer step, and many of them in one compiled call.

Models are known only through their loss, ``loss_fn(params, carry, batch, key) -> (loss, aux)``,
where ``loss`` is the mean to differentiate, penalties included, and ``aux`` a `jaxgen.LossAux`.
``carry`` is ``()`` for a model without memory between batches.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxgen.training.updates import global_norm, kept_where, updated
from jaxgen.types import Array, Bool, Float, Int, LossAux, PyTree, Sum

LossFn = Callable[[Any, Any, Any, Any], tuple[Array, LossAux]]
Averaging = Literal["none", "ema", "nt_asgd"]
INLINE: Any = getattr(getattr(jax, "Inline", None), "JAX_EARLY", True)
"""How a `jit` within a step is traced into it, so that what it closes over, such as a learning
rate, is closed over by the whole program, see `jaxgen.training.shared_programs`. Before JAX 0.11
that is what True does."""


class Average(NamedTuple):
    """A running average of the parameters."""

    params: PyTree
    """The average so far; the parameters themselves while `active` is False."""
    steps: Int[Array, ""]
    """Updates averaged since `active`."""
    active: Bool[Array, ""]
    """Always True for EMA; for NT-ASGD, True once `start_averaging` was called."""


class TrainState(NamedTuple):
    """All that a step reads and writes, hence all that a checkpoint holds."""

    step: Int[Array, ""]
    """Optimizer updates made."""
    params: PyTree
    opt_state: PyTree
    carry: PyTree
    """The model's memory at the end of the last batch; batch axis first in every leaf."""
    key: Array
    """Never changes: each step folds its number into it."""
    average: Average | tuple[()]
    """Empty without averaging."""
    finite: Bool[Array, ""]
    """False once a loss or gradient was not finite: later steps then change nothing."""
    extra: PyTree = ()
    """What else a task's own step remembers, such as a moving baseline; never reset."""


class Metrics(NamedTuple):
    """What one step reports, or several with a leading axis."""

    sums: dict[str, Sum]
    """As in `LossAux`, over all windows and devices of the step."""
    weight: Float[Array, "*K"]
    """Tokens or examples of the step."""
    loss: Float[Array, "*K"]
    """Mean that was differentiated, penalties included."""
    grad_norm: Float[Array, "*K"]
    """Global norm of the gradient before clipping."""
    finite: Bool[Array, "*K"]
    """Whether the update was made."""


TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
MultiStep = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]


def init_state(
    params: PyTree,
    tx: optax.GradientTransformation,
    key: Array,
    *,
    carry: PyTree = (),
    averaging: Averaging = "none",
) -> TrainState:
    """The state before the first step.

    Args:
        params: Initial parameters.
        tx: Optimizer.
        key: Random key of the whole run.
        carry: Initial memory of the model, `()` for none.
        averaging: As in `make_train_step`.
    """
    average: Average | tuple[()] = ()
    if averaging != "none":
        copy = jax.tree.map(jnp.copy, params)  # the state is donated: no buffer may be in it twice
        average = Average(copy, jnp.int32(0), jnp.bool_(averaging == "ema"))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=tx.init(params),
        carry=carry,
        key=key,
        average=average,
        finite=jnp.bool_(True),
    )


def evaluation_params(state: TrainState) -> PyTree:
    """The parameters to evaluate and keep: the average where there is one."""
    return state.average.params if isinstance(state.average, Average) else state.params


def is_averaging(state: TrainState) -> bool:
    """Whether the evaluation parameters are an average by now."""
    return isinstance(state.average, Average) and bool(state.average.active)


def start_averaging(state: TrainState) -> TrainState:
    """Start the mean of NT-ASGD (Merity et al. 2018, algorithm 1) at the present parameters."""
    if not isinstance(state.average, Average):
        raise ValueError("the state was made without averaging")
    return state._replace(average=state.average._replace(active=jnp.bool_(True)))


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    averaging: Averaging = "none",
    ema_decay: float = 0.999,
    axis_name: str | None = None,
    fixed: Sequence[str] = (),
) -> TrainStep:
    """One optimizer update from one batch, or from the mean over several.

    A loss or gradient that is not finite leaves the whole state as it was, but for `finite`.

    Args:
        loss_fn: See the head of this file.
        tx: Optimizer; its clipping sees the gradient of the mean over the whole step.
        accumulate: Batches a step. Above 1, every leaf has this many batches on its leading axis;
            they are read in order with the carry flowing through, and their gradients are averaged
            by their weights.
        averaging: "ema" keeps an exponential moving average of the parameters whose decay starts
            low, min(ema_decay, (1 + n) / (10 + n)) after n steps, so that the random initial
            values fade; "nt_asgd" keeps their plain mean from `start_averaging` on.
        ema_decay: Decay of the moving average.
        axis_name: Mapped axis of `jaxgen.training.parallel` over which gradients are summed.
        fixed: Parameters that stay as they were, weight decay or not: keys of their tree's top.

    Returns:
        train_step(state, batch) -> (state, metrics), to be jitted by the caller.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def sums(params: PyTree, carry: PyTree, batch: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        """New carry; gradient and loss summed over the batch, the loss's own sums, its weight."""
        (loss, aux), grads = grad_fn(params, carry, batch, key)
        return aux.carry, weighted(loss, aux, grads)

    def accumulated(
        params: PyTree, carry: PyTree, windows: PyTree, key: Array
    ) -> tuple[PyTree, PyTree]:
        def body(memory: PyTree, window: PyTree) -> tuple[PyTree, None]:
            carry, total, index = memory
            carry, new = sums(params, carry, window, jax.random.fold_in(key, index))
            return (carry, jax.tree.map(jnp.add, total, new), index + 1), None

        first = jax.tree.map(lambda x: x[0], windows)
        shapes = jax.eval_shape(sums, params, carry, first, key)[1]
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (carry, total, _), _ = jax.lax.scan(body, (carry, zero, jnp.int32(0)), windows)
        return carry, total

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        run = sums if accumulate == 1 else accumulated
        key = step_key(state, axis_name)
        carry, total = run(state.params, state.carry, batch, key)
        grads, metrics = means(state, total, axis_name)
        params, opt_state = updated(
            tx,
            grads,
            state.opt_state,
            state.params,
            norm=metrics.grad_norm,
            finite=metrics.finite,
        )
        if fixed:
            params = {**params, **{name: state.params[name] for name in fixed}}
        new = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            carry=carry,
            average=_averaged(state.average, params, averaging, ema_decay),
            finite=metrics.finite,
        )
        return kept_if_finite(new, state), metrics

    return train_step


def step_key(state: TrainState, axis_name: str | None) -> Array:
    """The key of the next step, another on each device."""
    key = jax.random.fold_in(state.key, state.step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def weighted(loss: Array, aux: LossAux, grads: PyTree) -> PyTree:
    """Gradient and loss summed over a batch, the loss's own sums, and the weight of the batch."""
    weight = aux.weight.astype(jnp.float32)
    grads = jax.tree.map(lambda g: g * weight.astype(g.dtype), grads)
    return grads, loss * weight, aux.sums, weight


def means(state: TrainState, total: PyTree, axis_name: str | None) -> tuple[PyTree, Metrics]:
    """The mean gradient of `weighted` sums, over all devices, and what the step tells of them."""
    if axis_name is not None:
        total = _over_devices(total, axis_name)
    grads, loss_sum, sums, weight = total
    count = jnp.maximum(weight, 1.0)
    grads = jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
    grad_norm = global_norm(grads)
    finite = state.finite & jnp.isfinite(loss_sum) & jnp.isfinite(grad_norm)
    return grads, Metrics(sums, weight, loss_sum / count, grad_norm, finite)


def _over_devices(total: PyTree, axis_name: str) -> PyTree:
    """The sum of a tree over all devices, in one collective."""
    if jax.process_count() == 1 or jax.default_backend() != "cpu":
        # XLA makes one collective of the leaves, but for a weight that it knows to be constant:
        # to wait for that alone takes as long as for all, where messages are slow.
        return jax.lax.psum(jax.lax.optimization_barrier(total), axis_name)
    with jax.numpy_dtype_promotion("standard"):
        flat, unravel = ravel_pytree(total)  # the CPU's collectives send leaf after leaf
    return unravel(jax.lax.psum(flat, axis_name))


def kept_if_finite(new: TrainState, old: TrainState) -> TrainState:
    """The new state; where it is not `finite`, the old one, marked so.

    Parameters and optimizer state are those of `new`: `updated` has chosen.
    """
    updated = {"params": new.params, "opt_state": new.opt_state}
    kept = kept_where(new.finite, *(x._replace(params=(), opt_state=()) for x in (new, old)))
    return kept._replace(finite=new.finite, **updated)


def multi_step_of(train_step: TrainStep) -> MultiStep:
    """Many steps in one call, over batches that already lie on the device.

    Returns:
        multi_step(state, batches, num_steps) -> (state, metrics), to be jitted by the caller. Every
        leaf of `batches` has K steps on its leading axis, of which the first `num_steps` are made;
        once one is not finite, the others change nothing. Metrics have K entries, zero where no
        step was made. `num_steps` is a traced number: a short call at the end of an epoch runs the
        same program as a full one, so where the steps are divided into calls changes neither the
        result nor what is compiled.
    """
    train_step = jax.jit(train_step, inline=INLINE)  # traced once for its shapes and its body

    def multi_step(
        state: TrainState, batches: PyTree, num_steps: Any
    ) -> tuple[TrainState, Metrics]:
        capacity = jax.tree.leaves(batches)[0].shape[0]
        # By index alone: under `vmap` a condition on `finite` would make every branch run.
        limit = jnp.minimum(jnp.asarray(num_steps, jnp.int32), capacity)

        def batch_at(index: Any) -> PyTree:
            return jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches
            )

        def body(memory: PyTree) -> PyTree:
            index, state, rows = memory
            state, row = train_step(state, batch_at(index))
            rows = jax.tree.map(lambda all_, one: all_.at[index].set(one), rows, row)
            return index + 1, state, rows

        shapes = jax.eval_shape(train_step, state, batch_at(0))[1]
        rows = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)
        start = (jnp.int32(0), state, rows)
        _, state, rows = jax.lax.while_loop(lambda memory: memory[0] < limit, body, start)
        return state, rows

    return multi_step


def _averaged(
    average: Average | tuple[()], params: PyTree, averaging: Averaging, ema_decay: float
) -> Average | tuple[()]:
    if averaging == "none" or not isinstance(average, Average):
        return ()
    n = average.steps.astype(jnp.float32)
    if averaging == "ema":
        weight = 1.0 - jnp.minimum(ema_decay, (1.0 + n) / (10.0 + n))
    else:
        weight = jnp.where(average.active, 1.0 / (n + 1.0), 1.0)

    def mix(mean: Array, new: Array) -> Array:
        share = weight.astype(new.dtype)
        return mean * (1 - share) + new * share

    steps = average.steps + average.active.astype(jnp.int32)
    return Average(jax.tree.map(mix, average.params, params), steps, average.active)
