"""A classifier under load: single texts, lists of them, and a service that does nothing, in turn.

The yardstick is what the HTTP server itself makes of the same requests, from the same clients.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import results
from benchmarks.load_client import NAME, keep_asking, quantile
from benchmarks.timing import Spread
from benchmarks.worker import Worker

WORDS = [f"{a}{b}{c}" for a, b, c in itertools.product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz")]
SHAPE = {"embedding_size": 128, "hidden_size": 64, "max_length": 64}
"""As `configs/imdb.toml` has it, of shorter texts."""
LENGTHS = (5, 30)
"""Words of a text, from and to."""
CLIENTS, LIST = 64, 64
AIM = 1000
"""Texts a second that are aimed at on 2 cores."""


def bodies(count: int, texts: int, seed: int = 0) -> list[Any]:
    """Requests of so many random texts each; a single one as a string."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(*LENGTHS)))

    inputs = [text() if texts == 1 else [text() for _ in range(texts)] for _ in range(count)]
    return [{"model": NAME, "input": one} for one in inputs]


def measure(rounds: int, seconds: float, tiny: bool = False) -> dict[str, Any]:
    """Texts a second by single requests, by lists, and from the service that does nothing."""
    shape = {**SHAPE, "embedding_size": 4, "hidden_size": 4} if tiny else SHAPE
    with Worker("benchmarks.served_classifier:ServedClassifier", words=WORDS, **shape) as server:
        service, bare = server.call("addresses")
        kinds = {
            "single": (service, 1, CLIENTS),
            "alone": (service, 1, 1),
            "lists": (service, LIST, 4),
            "bare": (bare, 1, CLIENTS),
        }
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, (address, texts, clients) in kinds.items():
                seen[name].append(asyncio.run(_round(address, texts, clients, seconds)))
    return {
        "shape": {**shape, "words": LENGTHS, "clients": CLIENTS, "list": LIST},
        **{name: _summary(rows) for name, rows in seen.items()},
    }


async def _round(address: str, texts: int, clients: int, seconds: float) -> dict[str, float]:
    wanted = [bodies(16, texts, seed) for seed in range(clients)]
    started = time.perf_counter()
    until = started + seconds
    asking = [keep_asking(address, "/v1/classify", some, until) for some in wanted]
    taken = [one for row in await asyncio.gather(*asking) for one in row]
    spent = time.perf_counter() - started
    return {
        "texts_per_second": len(taken) * texts / spent,
        "p50": quantile(taken, 0.5) or 0.0,
        "p99": quantile(taken, 0.99) or 0.0,
    }


def _summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: Spread.of([row[name] for row in rows]).as_dict() for name in rows[0]}


def section(found: dict[str, Any]) -> str:
    """The part of the report."""
    titles = {
        "single": f"{CLIENTS} clients, a text a request",
        "alone": "one client, a text a request",
        "lists": f"4 clients, {LIST} texts a request",
        "bare": f"{CLIENTS} clients, an application that does nothing",
    }
    lines = []
    for name, title in titles.items():
        row = {key: Spread(**value) for key, value in found[name].items()}
        shown = [f"{1000 * row[key].median:.1f} ms" for key in ("p50", "p99")]
        lines.append([title, str(row["texts_per_second"]), *shown])
    table = results.table(["who asks", "texts/s", "p50", "p99"], lines)
    return (
        f"### A classifier\n\nBidirectional LSTM-{found['shape']['hidden_size']}, texts of "
        f"{LENGTHS[0]} to {LENGTHS[1]} words, clients on the same cores; aimed at are {AIM:,} "
        f"texts a second.\n\n{table}"
    )
