"""English to French by characters: wall time to the loss of the Keras example, in its protocol.

    python -m benchmarks.fra_eng FILE [--keras-python PYTHON] [--seeds 0 1 2]

FILE is Tatoeba's, a pair a line; its first 10,000 pairs count, the last 2,000 of them held out.

Keras follows the example "Character-level recurrent sequence-to-sequence model"
(keras.io/examples/nlp/lstm_seq2seq), see `benchmarks/peers/keras_translation.py`: 25 epochs, of
which the best by the held-out loss counts. Its seconds are those inside `fit`. jaxgen trains
`configs/fra_eng.toml` on the same 8,000 pairs; its seconds have everything in them but the imports.
The trainings of jaxgen stand between the epochs of Keras, so that all see the same machine.

Two losses. The example averages over 2,000 times 59 positions: each target is filled up with
blanks, which are counted as foretold characters; most positions are such. That is `loss` (and
`accuracy`), and the published figure is 0.4358. `nll` (and `token_accuracy`) are over the real
tokens: the characters of a target and its end. A text of jaxgen ends with `<eos>`, and nothing can
follow: the positions after it are certain, so that its `loss` is the sum of its nats divided by all
positions. What they cost Keras, which has to learn them, stands beside as `padding_loss`. The
comparison by real tokens needs no such account, so it is the one to trust. Characters that no
training pair has are `<unk>` for jaxgen, and have an output of their own, never trained, in Keras.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.train_for import shown
from benchmarks.worker import COLD, ROOT, Worker

CONFIG = ROOT / "configs/fra_eng.toml"
PUBLISHED = 0.4358
PAIRS, HELD_OUT, EPOCHS = 10_000, 2_000, 25
KERAS = "benchmarks.peers.keras_translation:KerasTranslation"
SMALL = ["--model.hidden-size", "8", "--training.epochs", "2", "--training.devices", "1"]
SMALL += ["--data.buckets", "1", "--training.steps-per-dispatch", "2"]
Point = dict[str, float]


class Lines(NamedTuple):
    """The pairs that count: lines with a source, a tab and a target."""

    lines: list[str]
    held_out: int

    @classmethod
    def read(cls, path: Path, dry_run: bool) -> "Lines":
        """The first lines of the file.

        Raises:
            UserError: it cannot be read, or has too few lines, or one without a tab.
        """
        from jaxgen.errors import UserError

        count, held_out = (60, 20) if dry_run else (PAIRS, HELD_OUT)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[:count]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        wrong = [number for number, line in enumerate(lines, 1) if line.count("\t") < 1]
        if wrong or len(lines) < count:
            what = f"line {wrong[0]} has no tab" if wrong else f"it has {len(lines)}"
            raise UserError(f"{path} must have {count} lines of a source, a tab, a target: {what}")
        return cls(["\t".join(line.split("\t")[:2]) for line in lines], held_out)

    def sides(self) -> tuple[list[str], list[str]]:
        """Sources and targets."""
        sources, targets = zip(*(line.split("\t") for line in self.lines), strict=True)
        return list(sources), list(targets)

    def counts(self) -> tuple[int, int]:
        """Positions that the example averages over, and real tokens among them."""
        targets = self.sides()[1]
        real = sum(len(target) + 1 for target in targets[-self.held_out :])
        return self.held_out * (max(map(len, targets)) + 2), real

    def write(self, folder: Path) -> list[str]:
        """Write the files that jaxgen reads; the options that name them."""
        cut = len(self.lines) - self.held_out
        options = ["--data.source-column", "0", "--data.target-column", "1"]
        for name, lines in (("files", self.lines[:cut]), ("validation-files", self.lines[cut:])):
            path = folder / f"{name}.tsv"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            options += [f"--data.{name}", str(path)]
        return options


def in_protocol(figures: Point, positions: int, real: int) -> Point:
    """The example's `loss` and `accuracy` of a model that ends its texts, from its real tokens.

    Args:
        figures: `nll` and `token_accuracy` over the real tokens.
        positions: that the example averages over.
        real: tokens among them; the others are certain.
    """
    share = real / positions
    return {
        "loss": share * figures["nll"],
        "accuracy": 1 - share * (1 - figures["token_accuracy"]),
    }


def train_jaxgen(seed: int, options: list[str], counts: tuple[int, int]) -> dict[str, Any]:
    """One training; a point after each epoch."""
    arguments = [str(CONFIG), *options, "--training.seed", str(seed)]
    points: list[Point] = []
    target = "benchmarks.jaxgen_run:JaxgenRun"
    with Worker(target, env=COLD, arguments=arguments) as worker:
        while (found := worker.call("advance")) is not None:
            kept = {name: found[name] for name in ("seconds", "steps", "nll", "token_accuracy")}
            points.append({**kept, **in_protocol(found, *counts)})
            print(f"jaxgen, seed {seed}: {said(points[-1])}", flush=True)
    return {"seed": seed, "points": points}


def said(point: Point) -> str:
    return (
        f"{point['seconds']:.1f} s, loss {point['loss']:.4f}, {point['nll']:.4f} nats a real token"
    )


def run(args: argparse.Namespace, lines: Lines, folder: Path) -> dict[str, list[Any]]:
    """Train Keras, and between its epochs jaxgen once a seed."""
    epochs = 2 if args.dry_run else EPOCHS
    options = [*lines.write(folder), *(SMALL if args.dry_run else [])]
    breaks = [round(epochs * (number + 1) / len(args.seeds)) for number in range(len(args.seeds))]
    (pairs := folder / "pairs.json").write_text(json.dumps(lines.sides()))
    keras_options = {"pairs": str(pairs), "held_out": lines.held_out, "seed": args.seeds[0]}
    keras_options |= {"units": 8} if args.dry_run else {}
    keras: list[Point] = []
    jaxgen: list[dict[str, Any]] = []
    with Worker(KERAS, python=args.keras_python, **keras_options) as worker:
        for epoch in range(1, epochs + 1):
            keras.append(worker.call("epoch"))
            print(f"Keras, epoch {epoch}: {said(keras[-1])}", flush=True)
            for seed, after in zip(args.seeds, breaks, strict=True):
                if after == epoch:
                    jaxgen.append(train_jaxgen(seed, options, lines.counts()))
    return {"keras": keras, "jaxgen": jaxgen}


def best(points: list[Point], figure: str) -> Point:
    return min(points, key=lambda point: point[figure])


def reached(points: list[Point], figure: str, value: float) -> float | None:
    """Seconds until a figure is no more than a value."""
    return next((point["seconds"] for point in points if point[figure] <= value), None)


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    rows = [_row("Keras, best epoch", data["keras"])]
    rows += [_row(f"jaxgen, seed {r['seed']}, best epoch", r["points"]) for r in data["jaxgen"]]
    headers = ["", "epoch", "s until then", "loss", "accuracy", "nll", "token accuracy", "padding"]
    times = []
    by_loss, by_nll = (best(data["keras"], figure) for figure in ("loss", "nll"))
    for name, figure, value, seconds in (
        ("published for Keras, all positions", "loss", PUBLISHED, by_loss["seconds"]),
        ("Keras's best here, all positions", "loss", by_loss["loss"], by_loss["seconds"]),
        ("Keras's best here, real tokens", "nll", by_nll["nll"], by_nll["seconds"]),
    ):
        found = [reached(r["points"], figure, value) for r in data["jaxgen"]]
        taken = [each for each in found if each is not None]
        middle = statistics.median(taken) if len(taken) == len(found) else None
        mine = ", ".join("not reached" if s is None else f"{s:.1f}" for s in found)
        ratio = "" if middle is None else f"{seconds / middle:.1f}"
        times.append([name, f"{value:.4f}", f"{seconds:.1f}", mine, ratio])
    goals = [
        "nats, at most",
        "",
        "Keras, s until its best",
        "jaxgen, s until there",
        "times faster",
    ]
    return "\n\n".join(
        [
            "## English to French by characters, beside the Keras example"
            + (" (a trial, no result)" if data["dry_run"] else ""),
            results.table(headers, rows),
            "Loss and accuracy are over all positions, blanks after the end included, as the "
            "example has them; nll and token accuracy over the real tokens, "
            f"{data['real_tokens'] / data['positions']:.0%} of them. Padding is what the blanks "
            "add to the loss; after its end mark a text of jaxgen is certain.",
            results.table(goals, times),
            f"{len(data['keras'])} epochs of Keras took {data['keras'][-1]['seconds']:.1f} s. "
            f"The ratio is of jaxgen's median. `{data['command']}` {data.get('remark', '')}",
        ]
    )


def _row(name: str, points: list[Point]) -> list[str]:
    found = best(points, "loss")
    figures = ("loss", "accuracy", "nll", "token_accuracy")
    row = [name, str(points.index(found) + 1), f"{found['seconds']:.1f}"]
    row += [f"{found[figure]:.4f}" for figure in figures]
    return [*row, f"{found.get('padding_loss', 0.0):.4f}"]


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="pairs, a line each: source, tab, target")
    parser.add_argument("--keras-python", default=sys.executable, help="has keras and tensorflow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of jaxgen")
    parser.add_argument("--dry-run", action="store_true", help="two epochs of tiny models")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fra_eng.json"))
    args = parser.parse_args(given)
    from jaxgen.errors import UserError

    try:
        lines = Lines.read(args.file, args.dry_run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    positions, real = lines.counts()
    with tempfile.TemporaryDirectory() as name:
        found = run(args, lines, Path(name))
    content = {
        "command": " ".join(["python -m benchmarks.fra_eng", *map(shown, given)]),
        **{"dry_run": args.dry_run, "pairs": len(lines.lines), "held_out": lines.held_out},
        **{"positions": positions, "real_tokens": real, **found},
    }
    results.write(args.out, "fra_eng", **content)
    print(section(content) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
