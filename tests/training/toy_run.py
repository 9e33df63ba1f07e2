"""A small recurrent model to train in tests; as a script, a training that can be killed."""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.evaluation.perplexity import perplexity
from jaxgen.evaluation.sums import make_sums
from jaxgen.training import loop, parallel
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.runs import Run, locked
from jaxgen.training.step import TrainState, init_state, make_train_step
from jaxgen.training.trainable import Evaluation, Objective, Trainable
from jaxgen.types import LossAux, Sum

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
    return nll_sum / jnp.maximum(count, 1), LossAux(carry, {"nll": Sum(nll_sum, count)}, count)


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

    batches_per_epoch = WINDOWS

    def __init__(self) -> None:
        self.tokens = tokens()

    @property
    def shapes(self) -> Any:
        return [{"tokens": jax.ShapeDtypeStruct((B, T + 1), np.int32)}]

    def same_shape(self, epoch: int, first: int) -> int:
        return WINDOWS - first

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> Any:
        starts = (first + np.arange(count)) * T
        return {"tokens": np.stack([self.tokens[rows, s : s + T + 1] for s in starts])}


def carry() -> jax.Array:
    return jnp.zeros((B, H))


def evaluate_fn() -> Any:
    """Parameters to the sums of a text that is not trained on."""
    text = tokens(windows=4, seed=1)
    batches = [{"tokens": text[:, i * T : (i + 1) * T + 1]} for i in range(4)]
    sums = make_sums(loss_fn, batches_per_dispatch=4)
    return lambda params: sums(params, carry(), batches)


def figures(sums: Any) -> dict[str, float]:
    nll = float(sums["nll"].total) / max(float(sums["nll"].weight), 1.0)
    others = {name: float(s.total) / float(s.weight) for name, s in sums.items() if name != "nll"}
    return {"nll": nll, "perplexity": perplexity(nll), **others}


OBJECTIVE = Objective("nll", shown=("perplexity", perplexity))


def config(**changes: Any) -> TrainingConfig:
    small = {"batch_size": B, "epochs": 4.0, "steps_per_dispatch": 5}
    return TrainingConfig(**{**small, **changes})


def state_of(settings: TrainingConfig, seed: int = 0, key: int = 1) -> TrainState:
    tx = make_optimizer(name="adam", learning_rate=0.01, clip_norm=5.0)
    return init_state(
        init_params(seed), tx, jax.random.key(key), carry=carry(), averaging=settings.averaging
    )


def train_step_on(settings: TrainingConfig, axis_name: str | None, loss: Any = loss_fn) -> Any:
    return make_train_step(
        loss,
        make_optimizer(name="adam", learning_rate=0.01, clip_norm=5.0),
        accumulate=settings.accumulate_steps,
        averaging=settings.averaging,
        axis_name=axis_name,
    )


def multi_step_of(settings: TrainingConfig, layout: Any, loss: Any = loss_fn) -> Any:
    """The compiled steps."""
    train_step = train_step_on(settings, layout.axis_name, loss)
    return parallel.jit_multi_step(train_step, layout, accumulate=settings.accumulate_steps)


def pieces(settings: TrainingConfig, loss: Any = loss_fn, devices: int = 1) -> Any:
    """Fresh state, compiled steps and layout."""
    layout = parallel.make_layout(devices)
    return lambda: state_of(settings), multi_step_of(settings, layout, loss), layout


def trainable(
    settings: TrainingConfig, evaluate: Any = None, stream: Any = None, **others: Any
) -> Trainable:
    """The toy as the loop and the choice of devices take it."""
    fields = {
        "init_state": lambda key: state_of(settings),
        "train_step_on": lambda axis_name: train_step_on(settings, axis_name),
        "batches": stream or Stream(),
        "initial_carry": carry(),
        "rates": {},
        "figures": figures,
        "objective": OBJECTIVE,
        "evaluation": Evaluation(lambda params: None, evaluate or evaluate_fn()),
    }
    return Trainable(**{**fields, **others})


def train(directory: Path, settings: TrainingConfig, **options: Any) -> loop.Result:
    """Train into a directory, from where it stands."""
    state, multi_step, layout = options.pop("pieces", None) or pieces(settings)
    display = options.pop("display", None)
    evaluate, stream = options.pop("evaluate_fn", None), options.pop("stream", None)
    what = trainable(settings, evaluate, stream, **options)
    with locked(directory):
        exists = Run.exists(directory)
        run = Run.open(directory) if exists else Run.create(directory, FILES)
        opened = loop.open_loop(
            what, state(), multi_step, [run], settings, layout=layout, display=display
        )
        (result,) = loop.train(opened)
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
