"""Settings of the optimizer."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from jaxgen.config.base import Config, NonNegative, Rate


class OptimizerConfig(Config):
    """Optimizer, learning-rate schedule and clipping (optax)."""

    name: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Update rule."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rate after the warm-up, down to `final_fraction` of its peak."""
    warmup_steps: NonNegative = 0
    """Steps of linear warm-up from zero."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Last learning rate, as a share of the peak."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0
    """Largest global norm of the gradient; "none" leaves it alone."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor from a layer's learning rate to that of the layer below (ULMFiT: 0.385)."""
    unfreeze_epochs: Annotated[float, Field(gt=0)] | None = None
    """Epochs after which one more layer is trained, from the output down (default: all are)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay (adamw), or L2 on the gradient (sgd, rmsprop, adam)."""
    momentum: Rate = 0.0
    """Momentum of sgd and rmsprop."""
    b1: Rate = 0.9
    """Decay of Adam's first moment."""
    b2: Rate = 0.999
    """Decay of Adam's second moment, and of RMSprop's."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of Adam's second moment; Keras has 1e-7."""

    @field_validator("clip_norm", mode="before")
    @classmethod
    def _none_in_toml(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value
