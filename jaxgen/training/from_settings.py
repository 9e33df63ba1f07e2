"""What the settings say to the optimizer and to the step; these know nothing of settings."""

from typing import Any

import optax

from jaxgen.config import OptimizerConfig, TrainingConfig
from jaxgen.training.optimizers import Schedule, make_optimizer, make_schedule


def optimizer_of(
    config: OptimizerConfig, total_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer that the settings describe, and its learning rate.

    Args:
        config: The settings.
        total_steps: Steps of the whole training, over which the learning rate takes its course.
    """
    schedule = make_schedule(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=total_steps,
        final_fraction=config.final_fraction,
    )
    tx = make_optimizer(
        name=config.name,
        learning_rate=schedule,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        b1=config.b1,
        b2=config.b2,
    )
    return tx, schedule


def step_options(config: TrainingConfig) -> dict[str, Any]:
    """What the settings of the loop say to `make_train_step`."""
    return {
        "accumulate": config.accumulate_steps,
        "averaging": config.averaging,
        "ema_decay": config.ema_decay,
    }
