"""Wall time to 99 % of held-out sums of three digits, beside the Keras and the Flax example.

    python -m benchmarks.addition [--keras-python PYTHON] [--minutes 20] [--seeds 0 1 2]

Each contestant follows its own protocol, with the seconds that count of it:

- jaxgen: `configs/seq2seq_addition.toml`. All but the imports: making the sums, tokenizing,
  compilation, training, its own validation, checkpoints.
- Keras: the example "addition RNN" (keras.io/examples/nlp/addition_rnn), see
  `benchmarks/peers/keras_addition.py`, on the questions that jaxgen trains on. The time inside
  `fit`, without vectorizing; one point an epoch.
- Flax: the example "seq2seq" (github.com/google/flax), see `benchmarks/peers/flax_addition.py`.
  Making the sums as it goes, compilation, training; one point every 200 steps.

The held-out sums are the validation part of jaxgen's settings: 5,000 of 50,000 different sums,
drawn as the Keras example draws its questions; nobody trains on one, the other way round neither.
All answers are whole: written greedily by the model itself, and counted where every digit and the
end are right. That takes place between the measured seconds. A contestant stops with the first
point of 99 %, or the first past the time limit; then what it reached is said.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.train_for import shown
from benchmarks.worker import COLD, ROOT, Worker

CONFIG = ROOT / "configs/seq2seq_addition.toml"
GOAL = 0.99
TARGETS = {
    "jaxgen": "benchmarks.jaxgen_run:JaxgenRun",
    "Keras": "benchmarks.peers.keras_addition:KerasAddition",
    "Flax": "benchmarks.peers.flax_addition:FlaxAddition",
}
SMALL = [
    *["--data.examples", "120", "--model.hidden-size", "8", "--training.epochs", "2"],
    *["--training.devices", "1", "--training.steps-per-dispatch", "2", "--data.buckets", "1"],
]
Run = dict[str, Any]


class Sums(NamedTuple):
    """The sums of jaxgen's settings, two parts as `jaxgen.data.pairs.Pairs`."""

    digits: int
    train: Any
    held_out: Any

    @classmethod
    def of(cls, arguments: list[str]) -> "Sums":
        """What `jaxgen train` with these arguments trains on and validates with."""
        from jaxgen.cli.train import parse_train
        from jaxgen.data.pairs import load_pairs

        config: Any = parse_train(arguments).experiment.data
        corpus = load_pairs(config)
        return cls(config.digits, corpus.train, corpus.validation)


def options_of(name: str, seed: int, data: Sums, folder: Path, dry_run: bool) -> dict[str, Any]:
    """What a contestant is constructed with."""
    if name == "jaxgen":
        small = SMALL if dry_run else []
        return {"arguments": [str(CONFIG), "--training.seed", str(seed), *small]}
    digits = data.digits
    units = {"units": 8} if dry_run else {}
    if name == "Keras":
        path = folder / "pairs.json"
        path.write_text(json.dumps([list(data.train.sources), list(data.train.targets)]))
        return {"pairs": str(path), "digits": digits, "seed": seed, **units}
    few = {"steps": 2, "batch_size": 8} if dry_run else {}
    held_out = list(data.held_out.sources)
    return {"digits": digits, "held_out": held_out, "seed": seed, **units, **few}


def run_until(
    name: str, seed: int, contestant: Any, held_out: Any, limit: float, points: int | None = None
) -> Run:
    """Train one contestant to the goal, its end or a limit.

    Args:
        name: of the contestant.
        seed: of its training.
        contestant: with a `call` of `advance` and of `answers`.
        held_out: the `Pairs` to answer.
        limit: seconds.
        points: stop after so many, for a trial.

    Returns:
        `name`, `seed`, `reached`, and the `points`: `seconds`, `steps` and `exact_match`.
    """
    from jaxgen.evaluation.translation import exact_match

    found: list[dict[str, float]] = []
    sources, targets = list(held_out.sources), list(held_out.targets)
    while points is None or len(found) < points:
        point = contestant.call("advance")
        if point is None:
            break
        share = exact_match(contestant.call("answers", sources=sources), targets)
        kept = {name: point[name] for name in ("seconds", "steps")}
        found.append({**kept, "exact_match": share})
        print(
            f"{name}, seed {seed}: {point['seconds']:.1f} s, {point['steps']:,} steps, "
            f"{share:.4f} exact",
            flush=True,
        )
        if share >= GOAL or point["seconds"] >= limit:
            break
    reached = bool(found) and found[-1]["exact_match"] >= GOAL
    return {"name": name, "seed": seed, "reached": reached, "points": found}


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    ours = {r["seed"]: r for r in data["runs"] if r["name"] == "jaxgen" and r["reached"]}
    rows = []
    for run in sorted(data["runs"], key=lambda run: (run["seed"], run["name"] != "jaxgen")):
        last, best = run["points"][-1], max(p["exact_match"] for p in run["points"])
        times = ""
        if run["name"] != "jaxgen" and run["seed"] in ours:
            ratio = last["seconds"] / ours[run["seed"]]["points"][-1]["seconds"]
            times = f"{'' if run['reached'] else 'more than '}{ratio:.1f}"
        seconds = f"{last['seconds']:.1f}" if run["reached"] else f"not in {last['seconds']:.0f}"
        row = [run["name"], run["seed"], seconds, f"{last['steps']:,}", f"{best:.4f}", times]
        rows.append(row)
    headers = ["", "seed", "s to 99 %", "steps", "exact match", "times jaxgen's time"]
    return "\n\n".join(
        [
            f"## Addition of {data['digits']} digits, to {GOAL:.0%} exact match"
            + (" (a trial, no result)" if data["dry_run"] else ""),
            results.table(headers, rows),
            f"On {data['held_out']:,} held-out sums, each contestant by its own protocol, see "
            f"`benchmarks/addition.py`. Keras trains on {data['train']:,} sums, as jaxgen does; "
            f"Flax makes its own as it goes. `{data['command']}` {data.get('remark', '')}",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keras-python", default=sys.executable, help="has keras and tensorflow")
    parser.add_argument("--minutes", type=float, default=20.0, help="limit of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--contestants", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dry-run", action="store_true", help="two points of tiny models")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/addition.json"))
    args = parser.parse_args(given)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Sums.of([str(CONFIG), *(SMALL if args.dry_run else [])])
        for seed in args.seeds:
            for contestant in args.contestants:
                python = args.keras_python if contestant == "Keras" else sys.executable
                options = options_of(contestant, seed, data, folder, args.dry_run)
                with Worker(TARGETS[contestant], python=python, env=COLD, **options) as worker:
                    points = 2 if args.dry_run else None
                    limit = 60 * args.minutes
                    runs.append(run_until(contestant, seed, worker, data.held_out, limit, points))
    content = {
        "command": " ".join(["python -m benchmarks.addition", *map(shown, given)]),
        **{"minutes": args.minutes, "dry_run": args.dry_run, "digits": data.digits},
        **{"train": len(data.train), "held_out": len(data.held_out), "runs": runs},
    }
    results.write(args.out, "addition", **content)
    print(section(content) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
