"""The language model's training of several seeds: what can be combined, and the pieces together."""

from functools import partial

import jax
import numpy as np

from jaxgen.config import Experiment
from jaxgen.data.tokens import Tokens
from jaxgen.errors import UserError
from jaxgen.evaluation.perplexity import make_sums
from jaxgen.models.language_model import language_model_loss
from jaxgen.training.language_model import (
    EVALUATION_ROWS,
    LanguageModelTraining,
    held_out_batches,
    unit_of,
)
from jaxgen.training.loop import Result, train
from jaxgen.training.parallel import most_devices
from jaxgen.training.progress import Display
from jaxgen.training.seed_runs import SeedRuns
from jaxgen.training.seeds import first_states, make_seed_layout, over_seeds
from jaxgen.types import PyTree


def seed_devices(experiment: Experiment, seeds: int) -> int:
    """Devices over which to divide the seeds.

    Raises:
        UserError: The seeds cannot be trained together with these settings here.
    """
    if seeds < 1:
        raise UserError(f"`seeds` must be at least 1, got {seeds}; leave it out to train one run")
    backend = experiment.model.backend
    if backend not in ("auto", "scan"):
        raise UserError(
            f"`model.backend` must be scan (or auto, which takes it) with `seeds`, got {backend}: "
            "only scan runs several models at once; set it, or train the seeds one by one"
        )
    available, wanted = jax.device_count(), experiment.training.devices
    if wanted == "auto":
        return most_devices(seeds)
    if wanted > available or seeds % wanted:
        raise UserError(
            f"`training.devices` must divide the {seeds} seeds and be at most the {available} "
            f'that JAX sees, got {wanted}; use "auto"'
        )
    return wanted


def train_seeds(
    training: LanguageModelTraining, home: SeedRuns, display: Display | None = None
) -> list[Result]:
    """Train the runs of several seeds where they stand, see `jaxgen.training.loop.train`.

    No samples are written meanwhile.
    """
    config, unit = training.experiment.training, unit_of(training.tokenizer)
    seeds = home.index["seeds"]
    layout = make_seed_layout(len(seeds), home.index["devices"])
    display = display or Display(training.dispatches.total, unit)
    model = training.model.clone(backend="scan")
    sums = make_sums(
        partial(language_model_loss, model),
        compiled=lambda function: jax.jit(over_seeds(function, layout)),
    )

    def evaluate(held_out: Tokens, params: PyTree) -> dict[str, np.ndarray]:
        carry = layout.place_carry(model.initial_carry(EVALUATION_ROWS))
        batches = held_out_batches(held_out, config.sequence_length, training.reset_id)
        total, count = sums(params, carry, batches).T
        return {"nll": total / count}

    held_out = training.splits.validation
    return train(
        first_states(training.state_of, [jax.random.key(seed) for seed in seeds], layout),
        training.chunk_on(layout, model),
        training.batches,
        None if held_out is None else partial(evaluate, held_out),
        home.runs,
        config,
        initial_carry=model.initial_carry(config.batch_size),
        layout=layout,
        learning_rate=jax.jit(training.schedule),
        unit=unit,
        display=display,
        log=home.log,
    )
