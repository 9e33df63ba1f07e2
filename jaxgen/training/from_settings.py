"""What the settings say to the optimizer and to the step; these know nothing of settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax

from jaxgen.config import OptimizerConfig, TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.layerwise import DepthOf, layerwise
from jaxgen.training.optimizers import Schedule, make_optimizer, make_schedule
from jaxgen.training.schedule import Steps
from jaxgen.training.step import TrainState, init_state
from jaxgen.types import Array, PyTree


def optimizer_of(
    config: OptimizerConfig, steps: Steps, *, depth_of: DepthOf | None = None
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer that the settings describe, and its learning rate.

    Args:
        config: The settings.
        steps: The steps of the whole training, over which the learning rate takes its course.
        depth_of: From parameters to a tree like them of how many layers lie above each; None where
            a task has no such order.

    Raises:
        UserError: The settings tell layers apart, and the task does not.
    """
    schedule = make_schedule(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=steps.total,
        final_fraction=config.final_fraction,
    )
    rule = partial(
        make_optimizer,
        name=config.name,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        b1=config.b1,
        b2=config.b2,
        epsilon=config.epsilon,
    )
    if config.layer_decay == 1.0 and config.unfreeze_epochs is None:
        return rule(learning_rate=schedule, clip_norm=config.clip_norm), schedule
    if depth_of is None:
        name = "unfreeze_epochs" if config.layer_decay == 1.0 else "layer_decay"
        raise UserError(
            f"`optimizer.{name}` is for tasks that say how deep each parameter lies, which this "
            "one does not; leave it out"
        )
    epochs = config.unfreeze_epochs
    tx = layerwise(
        lambda rate: rule(learning_rate=rate),
        schedule,
        depth_of,
        layer_decay=config.layer_decay,
        unfreeze_every=0 if epochs is None else max(1, round(epochs * steps.epoch_steps)),
        clip_norm=config.clip_norm,
    )
    return tx, schedule


def step_options(config: TrainingConfig) -> dict[str, Any]:
    """What the settings of the loop say to `make_train_step`."""
    return {
        "accumulate": config.accumulate_steps,
        "averaging": config.averaging,
        "ema_decay": config.ema_decay,
    }


def first_state_of(
    init_params: Callable[[Array], PyTree],
    tx: optax.GradientTransformation,
    config: TrainingConfig,
    carry: PyTree = (),
) -> Callable[[Array], TrainState]:
    """The function that makes the state before the first step out of a run's key."""

    def first_state(key: Array) -> TrainState:
        params = init_params(jax.random.fold_in(key, 0))
        key = jax.random.fold_in(key, 1)
        return init_state(params, tx, key, carry=carry, averaging=config.averaging)

    return first_state
