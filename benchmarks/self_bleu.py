"""Self-BLEU beside NLTK: `python -m benchmarks.self_bleu FILE`, a text a line.

NLTK takes hours for 10,000 texts beside each other, so it scores `--scored` of them, each with all
others as its references, which is the same work for each; its time for all is in proportion. Both
must agree on those.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.timing import Spread
from jaxgen.evaluation.bleu import self_bleus, sentence_bleus


def nltk_scores(texts: list[list[str]], chosen: list[int], n: int) -> tuple[list[float], float]:
    """NLTK's scores of the chosen texts, and seconds."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing, weights = SmoothingFunction().method1, [1 / n] * n
    started = time.perf_counter()
    scores = [
        sentence_bleu(texts[:i] + texts[i + 1 :], texts[i], weights, smoothing) for i in chosen
    ]
    return scores, time.perf_counter() - started


def compare(texts: list[list[str]], scored: int, rounds: int) -> dict[str, Any]:
    """Seconds of all texts: ours for Self-BLEU-2 to 5, NLTK's for Self-BLEU-5 alone."""
    chosen = np.random.default_rng(0).choice(len(texts), scored, replace=False).tolist()
    ours, theirs = [], []
    expected = sentence_bleus(texts, None, 5)[-1]
    for _ in range(rounds):
        started = time.perf_counter()
        self_bleus(texts)
        ours.append(time.perf_counter() - started)
        scores, seconds = nltk_scores(texts, chosen, 5)
        np.testing.assert_allclose(scores, np.asarray(expected)[chosen], rtol=1e-12)
        theirs.append(seconds * len(texts) / scored)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    spreads = {"jaxgen": ours, "nltk": theirs, "times": ratios}
    found: dict[str, Any] = {name: Spread.of(values).as_dict() for name, values in spreads.items()}
    return {"texts": len(texts), "scored": scored, **found}


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    times = Spread(**data["times"])
    return (
        f"## Self-BLEU beside NLTK\n\nSelf-BLEU-2 to 5 of {data['texts']:,} texts: "
        f"{data['jaxgen']['median']:.2f} s. NLTK, Self-BLEU-5 alone: "
        f"{data['nltk']['median'] / 3600:.1f} hours (in proportion to {data['scored']} texts, "
        f"which score the same), {times} times as long."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--scored", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/self_bleu.json"))
    args = parser.parse_args(arguments)
    texts = [line.split() for line in args.file.read_text().splitlines()]
    found = compare(texts, args.scored, args.rounds)
    results.write(args.out, "self_bleu", **found)
    print(section(found) + f"\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
