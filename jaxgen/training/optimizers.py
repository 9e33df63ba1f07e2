"""Optimizers and learning-rate schedules: optax, from plain arguments."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.training.updates import Elementwise, clip_by_norm

Schedule = Callable[[Any], Any]
"""Learning rate before the update numbered by its argument, counted from zero."""

RMSPROP_EPS = 1e-7
ADAM_EPS = 1e-8


def make_schedule(
    *,
    learning_rate: float,
    schedule: Literal["constant", "cosine", "linear"] = "constant",
    warmup_steps: int = 0,
    total_steps: int = 1,
    final_fraction: float = 0.0,
) -> Schedule:
    """Linear warm-up from zero to `learning_rate`, then its course to the end of the run.

    Args:
        learning_rate: Peak.
        schedule: "constant", or "cosine" or "linear" down to `final_fraction` of the peak.
        warmup_steps: Steps of the warm-up.
        total_steps: Steps of the whole run, warm-up included.
        final_fraction: Last learning rate as a share of the peak; of no use to "constant".

    The peak is an array that the schedule closes over, so that programs of different peaks can be
    one, see `jaxgen.training.shared_programs`.
    """
    peak = np.full(1, learning_rate, np.float32)
    decay_steps = max(total_steps - warmup_steps, 1)
    if schedule == "constant":
        course = optax.constant_schedule(1.0)
    elif schedule == "cosine":
        course = optax.cosine_decay_schedule(1.0, decay_steps, alpha=final_fraction)
    else:
        course = optax.linear_schedule(1.0, final_fraction, decay_steps)
    if warmup_steps > 0:
        warmup = optax.linear_schedule(0.0, 1.0, warmup_steps)
        course = optax.join_schedules([warmup, course], [warmup_steps])
    return lambda step: jnp.asarray(peak)[0] * course(step)


def make_optimizer(
    *,
    name: Literal["adam", "adamw", "rmsprop", "sgd"],
    learning_rate: float | Schedule,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = ADAM_EPS,
) -> Elementwise:
    """Clip the gradient by its global norm, then decay weights, then apply the rule.

    "rmsprop" is that of Keras 3: its `rho` is `b2`, and its epsilon of 1e-7 stands inside the
    root, lr * g / sqrt(v + eps); PyTorch and Keras before 2.3 divide by sqrt(v) + eps instead.
    "adam" and "adamw" are those of PyTorch and optax, lr * m / (sqrt(v) + epsilon). Keras adds
    1e-7, and to the root of the uncorrected v: about 1e-7 / sqrt(1 - b2**step) here.

    Args:
        name: The rule.
        learning_rate: A number or a schedule, see `make_schedule`.
        clip_norm: Largest global norm of the gradient; None leaves it alone.
        weight_decay: "adamw" subtracts learning_rate * weight_decay * params beside the rule;
            the others add weight_decay * params to the clipped gradient (L2).
        momentum: Heavy-ball momentum of "sgd" and "rmsprop".
        b1: Decay of Adam's first moment.
        b2: Decay of the second moment of Adam and RMSprop.
        epsilon: Of "adam" and "adamw".
    """
    parts = []
    if clip_norm is not None:
        parts.append(clip_by_norm(clip_norm))
    if weight_decay > 0.0 and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    if name == "adam":
        rule = optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon)
    elif name == "adamw":
        rule = optax.adamw(learning_rate, b1=b1, b2=b2, eps=epsilon, weight_decay=weight_decay)
    elif name == "rmsprop":
        rule = optax.rmsprop(
            learning_rate,
            decay=b2,
            eps=RMSPROP_EPS,
            eps_in_sqrt=True,
            momentum=momentum if momentum > 0.0 else None,
        )
    else:
        rule = optax.sgd(learning_rate, momentum=momentum if momentum > 0.0 else None)
    return Elementwise(*optax.with_extra_args_support(optax.chain(*parts, rule)))
