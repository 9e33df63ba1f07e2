"""The reference classifier of IMDB in Keras, on the very texts of `configs/imdb_reference.toml`.

    python -m benchmarks.keras_reference [--keras-python PYTHON] [-- --data.files train.tsv.gz ...]

jaxgen reads, divides and cleans the texts by the settings, so that both train on the same words and
are scored on the same reviews. From there on everything is the recipe's: words numbered by how
often the training texts have them, others left out; texts padded and cut after their end to the
mean length; five epochs, of which the one best on the validation texts counts. `--test` reads the
test texts too, once a seed, at the end. `--masked` lets Keras skip the padding.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.classifier_sections import keras_reference
from benchmarks.train_for import shown
from benchmarks.worker import ROOT, Worker

CONFIG = ROOT / "configs/imdb_reference.toml"
EPOCHS = 5


def arrays_of(config: Any, parts: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """What Keras trains on, and its sizes.

    Args:
        config: a `LabelledData`, for the cleaning.
        parts: name -> `LabelledTexts`; `train` is fitted to.

    Returns:
        `{part}_tokens` Int[N, T] and `{part}_labels` Int[N]; and numbers of training texts,
        tokens (padding with them) and T.
    """
    from jaxgen.data.cleaning import make_cleaner
    from jaxgen.data.labels import LabelSet
    from jaxgen.errors import UserError

    labels = LabelSet.fit(parts["train"].labels)
    if len(labels) != 2:
        raise UserError(f"the recipe has two classes, got {', '.join(labels.names)}")
    clean = make_cleaner(config)
    words = {name: [clean(t).split() for t in part.texts] for name, part in parts.items()}
    counts = Counter(word for text in words["train"] for word in text)
    numbers = {word: n for n, (word, _) in enumerate(counts.most_common(), 1)}
    length = max(1, round(float(np.mean([len(text) for text in words["train"]]))))
    arrays = {}
    for name, texts in words.items():
        tokens = np.zeros((len(texts), length), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            known = [numbers[word] for word in text if word in numbers][:length]
            row[: len(known)] = known
        arrays[f"{name}_tokens"] = tokens
        arrays[f"{name}_labels"] = labels.encode(parts[name].labels, parts[name].name)
    sizes = {"train": len(words["train"]), "vocabulary": len(numbers) + 1, "length": length}
    return arrays, sizes


def run_keras(arrays: Path, sizes: dict[str, int], seed: int, args: Any) -> dict[str, Any]:
    """Train once; epochs, seconds of `fit`, and figures."""
    options = {"arrays": str(arrays), "vocab_size": sizes["vocabulary"]}
    options |= {"seed": seed, "masked": args.masked}
    target = "benchmarks.peers.keras_imdb:KerasReference"
    with Worker(target, python=args.keras_python, **options) as keras:
        epochs = []
        for number in range(1, args.epochs + 1):
            epochs.append(keras.call("epoch"))
            last = epochs[-1]
            print(
                f"seed {seed}, epoch {number}: {last['seconds']:.1f} s, validation accuracy "
                f"{last['validation_accuracy']:.4f}",
                flush=True,
            )
        run = {"seed": seed, "epochs": epochs, "seconds": sum(e["seconds"] for e in epochs)}
        if args.test:
            run["test_accuracy"] = keras.call("best_accuracy", part="test")
    return run


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--keras-python", default=sys.executable, help="has keras and tensorflow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--masked", action="store_true", help="skip the padding (`mask_zero`)")
    parser.add_argument("--test", action="store_true", help="read the test texts too, at the end")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args(given[:cut])
    name = "keras_reference_masked" if args.masked else "keras_reference"
    args.out = args.out or Path(f"benchmarks/results/{name}.json")

    from jaxgen.cli.train import parse_train
    from jaxgen.data.labelled import load_labelled
    from jaxgen.errors import UserError

    try:
        config = parse_train([str(args.config), *given[cut + 1 :]]).experiment.data
        corpus = load_labelled(config)
        names = ("train", "validation", "test") if args.test else ("train", "validation")
        parts = {part: getattr(corpus, part) for part in names}
        missing = [part for part, texts in parts.items() if texts is None]
        if missing:
            raise UserError(f"the settings hold out no {missing[0]} texts")
        arrays, sizes = arrays_of(config, parts)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        np.savez(path, **arrays)
        runs = [run_keras(path, sizes, seed, args) for seed in args.seeds]
    content = {
        **{"runs": runs, "sizes": sizes, "masked": args.masked},
        "command": " ".join(["python -m benchmarks.keras_reference", *map(shown, given)]),
    }
    results.write(args.out, "keras_reference", **content)
    print(keras_reference(content) + f"\n\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
