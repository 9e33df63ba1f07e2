"""Train on a text file larger than memory should have to hold, and report the memory it took.

    python -m benchmarks.bounded_memory --gigabytes 1 --kind char --steps 200

writes the embedded corpus (or `--source`) over and over into a temporary file of that size, builds
the tokenizer, encodes the text, reads it as training does and trains; of each phase it reports the
seconds, and the peak resident memory (VmHWM) of the process once it is done.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxgen
from benchmarks import results, sections
from benchmarks.worker import peak_resident
from jaxgen.config import (
    LanguageModelConfig,
    LanguageModelData,
    LanguageModelExperiment,
    LanguageModelTraining,
    TokenizerConfig,
)
from jaxgen.data.corpora import fit_tokenizer, load_corpus
from jaxgen.data.embedded import embedded_text
from jaxgen.data.streams import TokenStream
from jaxgen.data.tokens import TokenSplits, encode_corpus

BATCHES = 50


class Phases:
    """Runs one phase after the other and notes what each took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.note("start", 0.0)

    def note(self, name: str, seconds: float) -> None:
        peak = round(peak_resident() / 1e6, 1)
        row = {"phase": name, "seconds": round(seconds, 2), "peak_megabytes": peak}
        self.rows.append(row)

    def run(self, name: str, phase: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        result = phase(*args)
        self.note(name, time.perf_counter() - start)
        return result


def write_corpus(path: Path, source: Path | None, size: int) -> None:
    """Repeat the source until the file has `size` bytes, give or take one source."""
    text = source.read_bytes() if source else embedded_text().text.encode()
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(text)


def read_stream(splits: TokenSplits, training: LanguageModelTraining) -> int:
    """Read one epoch of windows, as the training loop does."""
    stream = TokenStream(splits.train, training.batch_size, training.sequence_length)
    count = 0
    for first in range(0, stream.batches_per_epoch, BATCHES):
        size = min(BATCHES, stream.batches_per_epoch - first)
        count += stream.read(0, first, size)["tokens"].size
    return count


def train(experiment: LanguageModelExperiment, folder: Path) -> None:
    """A whole training through the run directory: it opens and encodes the corpus again."""
    jaxgen.train(experiment, out=folder / "run")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    phases = Phases()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        path = folder / "corpus.txt"
        write_corpus(path, arguments.source, int(arguments.gigabytes * 1e9))
        experiment = LanguageModelExperiment(
            data=LanguageModelData(files=(path,), validation_fraction=1e-4, test_fraction=0),
            tokenizer=TokenizerConfig(
                kind=arguments.kind, vocab_size=4096 if arguments.kind == "bpe" else None
            ),
            model=LanguageModelConfig(hidden_size=arguments.hidden_size),
            training=LanguageModelTraining(max_steps=max(arguments.steps, 1)),
        )
        corpus = phases.run("open", load_corpus, experiment.data)
        tokenizer = phases.run("tokenizer", fit_tokenizer, experiment.tokenizer, corpus)
        splits = phases.run("encode", encode_corpus, corpus, tokenizer, folder / "tokens")
        phases.run("reuse", encode_corpus, corpus, tokenizer, folder / "tokens")
        phases.run("read", read_stream, splits, experiment.training)
        if arguments.steps:
            phases.run("train", train, experiment, folder)
        return {
            "text_bytes": path.stat().st_size,
            "tokenizer": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "train_tokens": len(splits.train),
            "peak_megabytes": round(peak_resident() / 1e6, 1),
            "phases": phases.rows,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the text, 10^9 bytes")
    parser.add_argument("--kind", default="char", choices=["byte", "char", "word", "bpe"])
    parser.add_argument("--source", type=Path, help="text to repeat (default: embedded corpus)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps; 0 trains nothing")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bounded_memory.json"))
    args = parser.parse_args()
    found = measure(args)
    results.write(args.out, "bounded_memory", **found)
    print(sections.bounded_memory(found))


if __name__ == "__main__":
    main()
