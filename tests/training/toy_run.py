"""A small recurrent model to train in tests; as a script, a training that can be killed."""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.evaluation.perplexity import make_evaluator
from jaxgen.training import loop, parallel
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.runs import Run, locked
from jaxgen.training.step import TrainState, init_state

V, H, B, T = 7, 8, 4, 5
WINDOWS = 12
FILES = {"config.toml": "", "tokenizer.json": "{}"}


def loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    """An Elman network; dropout where there is a key, a mask where the batch has one."""
    inputs, targets = batch["tokens"][:, :-1].T, batch["tokens"][:, 1:].T
    mask = batch["mask"].T if "mask" in batch else jnp.ones(targets.shape, bool)

    def cell(hidden: Any, token: Any) -> Any:
        hidden = jnp.tanh(params["in"][token] + hidden @ params["recurrent"])
        return hidden, hidden

    carry, hidden = jax.lax.scan(cell, carry, inputs)
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 0.9, hidden.shape), hidden, 0.0)
    logits = jax.nn.log_softmax(hidden @ params["out"])
    nll = -jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    nll_sum, count = jnp.where(mask, nll, 0).sum(), mask.sum().astype(jnp.float32)
    return nll_sum / jnp.maximum(count, 1), (carry, nll_sum, count)


def deterministic_loss_fn(params: Any, carry: Any, batch: Any, key: Any) -> Any:
    return loss_fn(params, carry, batch, None)


def init_params(seed: int = 0) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"in": (V, H), "recurrent": (H, H), "out": (H, V)}
    return {
        name: 0.3 * jax.random.normal(key, shape)  # larger, and it is chaotic
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def tokens(windows: int = WINDOWS, seed: int = 0) -> np.ndarray:
    """Walks around a circle of symbols, one a batch row: there is something to learn."""
    steps = np.random.default_rng(seed).integers(0, 3, (B, windows * T + 1))
    return (np.cumsum(steps, axis=1) % V).astype(np.int32)


class Stream:
    """The training text as windows that overlap by one token."""

    windows_per_epoch = WINDOWS

    def __init__(self) -> None:
        self.tokens = tokens()

    def chunk(self, epoch: int, window: int, num_windows: int) -> Any:
        starts = (window + np.arange(num_windows)) * T
        return {"tokens": np.stack([self.tokens[:, s : s + T + 1] for s in starts])}


def carry() -> jax.Array:
    return jnp.zeros((B, H))


def evaluate_fn() -> Any:
    text = tokens(windows=4, seed=1)
    batches = [{"tokens": text[:, i * T : (i + 1) * T + 1]} for i in range(4)]
    evaluate = make_evaluator(loss_fn, windows_per_dispatch=4)
    return lambda params: {"nll": evaluate(params, carry(), batches).mean}


def config(**changes: Any) -> TrainingConfig:
    small = {"batch_size": B, "sequence_length": T, "epochs": 4.0, "steps_per_dispatch": 5}
    return TrainingConfig(**{**small, **changes})


def pieces(settings: TrainingConfig, loss: Any = loss_fn, devices: int = 1) -> Any:
    """Fresh state, chunk and layout."""
    tx = make_optimizer(name="adam", learning_rate=0.01, clip_norm=5.0)
    layout = parallel.make_layout(devices)
    chunk = parallel.make_chunk(
        loss, tx, layout, accumulate=settings.accumulate_steps, averaging=settings.averaging
    )

    def state() -> TrainState:
        key = jax.random.key(1)
        return init_state(init_params(), tx, key, carry=carry(), averaging=settings.averaging)

    return state, chunk, layout


def train(directory: Path, settings: TrainingConfig, **options: Any) -> loop.Result:
    """Train into a directory, from where it stands."""
    state, chunk, layout = options.pop("pieces", None) or pieces(settings)
    evaluate = options.pop("evaluate_fn", None) or evaluate_fn()
    stream = options.pop("stream", None) or Stream()
    with locked(directory):
        exists = Run.exists(directory)
        run = Run.open(directory) if exists else Run.create(directory, FILES)
        (result,) = loop.train(
            state(),
            chunk,
            stream,
            evaluate,
            [run],
            settings,
            initial_carry=carry(),
            layout=layout,
            **options,
        )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--epochs", type=float)
    arguments = parser.parse_args()
    settings = config(
        epochs=arguments.epochs, evaluate_every=7, averaging="nt_asgd", nt_asgd_window=2
    )
    result = train(arguments.directory, settings)
    sys.exit(130 if result.reason == "interrupted" else 0)
