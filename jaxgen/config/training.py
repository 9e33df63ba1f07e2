"""Settings of the training loop, whatever the task."""

from typing import Annotated, Literal

from pydantic import Field

from jaxgen.config.base import Config, Positive, Seed


class TrainingConfig(Config):
    """The training loop."""

    batch_size: Positive = 64
    """Rows of a batch."""
    epochs: Annotated[float, Field(gt=0)] = 10.0
    """Passes over the training data (a fraction is fine)."""
    max_steps: Positive | None = None
    """Stop after so many optimizer steps."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after so many minutes of training."""
    evaluate_every: Positive | None = None
    """Optimizer steps between evaluations (default: one epoch)."""
    patience: Positive | None = None
    """Stop after so many evaluations without a better validation figure."""
    accumulate_steps: Positive = 1
    """Batches whose gradients are averaged into one optimizer step."""
    steps_per_dispatch: Positive = 50
    """Optimizer steps in one compiled call."""
    averaging: Literal["none", "ema", "nt_asgd"] = "none"
    """Average of the parameters that is evaluated and saved as the model."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay of the exponential moving average."""
    nt_asgd_window: Positive = 5
    """Evaluations without progress that start NT-ASGD's averaging."""
    devices: Literal["auto"] | Positive = "auto"
    """Devices of data parallelism; auto measures on a CPU with several cores."""
    seed: Seed = 0
    """Seed of parameters, dropout and samples."""

    changeable_on_resume = frozenset({"epochs", "max_steps", "max_minutes", "patience"})
