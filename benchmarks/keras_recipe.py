"""The Keras Nietzsche recipe against `jaxgen train configs/nietzsche.toml`, on the same text.

    python -m benchmarks.keras_recipe --corpus nietzsche.txt [--keras-python .../bin/python]

Both read the first 95 % of the lower-cased text and are scored on the last 5 % by the recipe's own
protocol: windows of 60 characters every 3, from a zero state, the loss on the 61st. Keras is given
its three epochs; what counts of it is the time inside `fit`, without imports, vectorizing and
scoring. jaxgen is charged for its call of `jaxgen.train` in a process that has imported JAX
(tokenizing, compilation, training, evaluation, samples, checkpoints, plot), and in a second row for
the whole command, which adds the imports. Both are run after each Keras epoch, so that all see the
same machine. Scored is jaxgen's last checkpoint: none is chosen by the figure. About 4 minutes on 2
cores; `--quick` tries the script out in under one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from benchmarks.worker import ROOT, Worker

EPOCHS = 3
WINDOW, STEP = 60, 3


def split(corpus: Path, folder: Path, newlines: str, quick: bool) -> tuple[Path, Path]:
    """Write the lower-cased training and validation texts."""
    text = corpus.read_text(encoding="utf-8").lower()
    if newlines == "space":
        text = text.replace("\n", " ")
    text = text[:40_000] if quick else text
    cut = round(0.95 * len(text))
    train, validation = folder / "train.txt", folder / "validation.txt"
    train.write_text(text[:cut], encoding="utf-8")
    validation.write_text(text[cut:], encoding="utf-8")
    return train, validation


CONFIG = ROOT / "configs/nietzsche.toml"
COLD = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Compiling counts."""


class JaxgenRecipe:
    """The contestant that calls `jaxgen.train`."""

    def __init__(self, train: str, validation: str):
        from jaxgen.config.toml import read_toml
        from jaxgen.training.parallel import request_host_devices

        request_host_devices()
        experiment = read_toml(CONFIG)
        files = {"files": (Path(train),), "validation_files": (Path(validation),)}
        data = experiment.data.model_copy(update=files)
        self.experiment = experiment.model_copy(update={"data": data})

    def train(self, out: str) -> int:
        """Train a run; returns its steps."""
        import jaxgen

        return jaxgen.train(self.experiment, out=out).steps


def command_of(train: Path, validation: Path, out: Path) -> list[str]:
    return [
        *[sys.executable, "-m", "jaxgen", "train", str(CONFIG)],
        *["--data.files", str(train), "--data.validation-files", str(validation)],
        *["--out", str(out)],
    ]


def jaxgen_nll(run: Path, validation: Path, which: str) -> float:
    """Nats on the character after each window of the validation text, from a zero carry."""
    import jaxgen

    model = jaxgen.load(run, which=which)
    tokens = model.tokenizer.encode(validation.read_text(encoding="utf-8"))
    rows = np.lib.stride_tricks.sliding_window_view(tokens, WINDOW + 1)[::STEP]
    mask = jnp.ones((len(rows), WINDOW), bool)
    carry = model.initial_carry(len(rows))
    _, logits = jax.jit(model.prefill_fn)(model.params, carry, jnp.asarray(rows[:, :-1]), mask)
    log_probabilities = jax.nn.log_softmax(logits[:, -1])
    chosen = np.asarray(log_probabilities)[np.arange(len(rows)), rows[:, -1]]
    return float(-chosen.mean(dtype=np.float64))


def run_jaxgen(train: Path, validation: Path, folder: Path) -> dict[str, Any]:
    """Train twice, by a call and by the command; times and figure."""
    texts = {"train": str(train), "validation": str(validation)}
    with Worker("benchmarks.keras_recipe:JaxgenRecipe", env=COLD, **texts) as jaxgen:
        call_seconds = jaxgen.timed("train", out=str(folder / "call"))
    command = command_of(train, validation, folder / "command")
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | COLD)
    command_seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return {
        "call_seconds": call_seconds,
        "command_seconds": command_seconds,
        "nll": jaxgen_nll(folder / "command", validation, "last"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--keras-python", default=sys.executable, help="has keras and tensorflow")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/keras_recipe.json"))
    parser.add_argument("--newlines", choices=("keep", "space"), default="keep")
    parser.add_argument("--quick", action="store_true", help="a trial on 40,000 characters")
    args = parser.parse_args()
    epochs, ours = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, validation = split(args.corpus, folder, args.newlines, args.quick)
        target = "benchmarks.peers.keras_nietzsche:KerasRecipe"
        with Worker(
            target, python=args.keras_python, train=str(train), validation=str(validation)
        ) as keras:
            sizes = keras.call("sizes")
            for number in range(1, EPOCHS + 1):
                seconds = keras.timed("epoch")
                epochs.append({"seconds": seconds, "nll": keras.call("evaluate")})
                print(
                    f"keras epoch {number}: {seconds:.1f} s, {epochs[-1]['nll']:.4f} nats",
                    flush=True,
                )
                run = run_jaxgen(train, validation, folder / str(number))
                ours.append(run)
                print(
                    f"jaxgen run {number}: {run['call_seconds']:.1f} s by a call, "
                    f"{run['command_seconds']:.1f} s by the command, {run['nll']:.4f} nats",
                    flush=True,
                )
    keras_seconds = sum(epoch["seconds"] for epoch in epochs)
    call_seconds = statistics.median(run["call_seconds"] for run in ours)
    command_seconds = statistics.median(run["command_seconds"] for run in ours)
    summary = {
        "keras_seconds": keras_seconds,
        "keras_nll": epochs[-1]["nll"],
        "jaxgen_seconds": call_seconds,
        "jaxgen_command_seconds": command_seconds,
        "jaxgen_nll": statistics.median(run["nll"] for run in ours),
        "times_faster": keras_seconds / call_seconds,
        "times_faster_command": keras_seconds / command_seconds,
    }
    results.write(
        args.out,
        "keras_recipe",
        summary=summary,
        keras=epochs,
        jaxgen=ours,
        sizes=sizes,
        newlines=args.newlines,
        quick=args.quick,
    )
    print(
        f"Keras: {keras_seconds:.1f} s of fit, {summary['keras_nll']:.4f} nats. "
        f"jaxgen: {call_seconds:.1f} s by a call ({command_seconds:.1f} s by the command), "
        f"{summary['jaxgen_nll']:.4f} nats. {summary['times_faster']:.1f} times faster "
        f"({summary['times_faster_command']:.1f} by the command).\nwritten to {args.out}"
    )


if __name__ == "__main__":
    main()
