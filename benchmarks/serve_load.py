"""The service under load: `python -m benchmarks.serve_load`.

Streams at the same time against the plain batched sampler of the same model and batch, in turn;
twice the load that the server can answer, with the bound of the queue and without; memory over
thousands of requests; clients that leave at random moments.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks import classify_load, results
from benchmarks.cases import Case
from benchmarks.load_client import NAME, Streamed, closed_loop, open_loop, quantile, stream
from benchmarks.timing import Spread
from benchmarks.worker import Worker

CASES = (Case(B=64, T=256, H=512, L=2), Case(B=64, T=256, H=128))
TINY = (Case(B=2, T=8, H=4),)
TARGET = 0.6
"""Share of the plain sampler's tokens per second that is aimed at: 64 streams, 2xLSTM-512."""
UNBOUNDED = {"queue": 10**6, "queue_tokens": 10**12}


class Server(Protocol):
    """`benchmarks.worker.Worker` of a `Served`."""

    def call(self, method: str, **arguments: Any) -> Any: ...

    def timed(self, method: str, **arguments: Any) -> float: ...


def fields(tokens: int) -> dict[str, Any]:
    """A request for a text of so many tokens."""
    return {"model": NAME, "prompt": "a", "max_tokens": tokens}


def figures(seen: Sequence[Streamed], seconds: float, tokens: int) -> dict[str, Any]:
    """What some clients saw, in all."""
    whole = [one for one in seen if one.whole]
    first = [one.first for one in whole if one.first is not None]
    return {
        "requests": len(seen),
        "refused": sum(one.status == 429 for one in seen),
        "failed": sum(not one.whole and one.status != 429 for one in seen),
        "requests_per_second": len(whole) / seconds,
        "tokens_per_second": tokens * len(whole) / seconds,
        "first_token_p50": quantile(first, 0.5),
        "first_token_p99": quantile(first, 0.99),
        "seconds": seconds,
    }


def measure_streams(
    server: Server, streams: int, tokens: int, seconds: float, rounds: int, batch: int
) -> dict[str, Any]:
    """So many streams at the same time, in turn with the plain sampler at the batch they fill."""
    address = server.call("address")
    wanted = fields(tokens)
    server.call("raw", batch=batch, tokens=tokens, calls=1)  # compiled
    once = server.timed("raw", batch=batch, tokens=tokens, calls=1)
    calls = max(1, round(seconds / 2 / once))
    asyncio.run(closed_loop(lambda: stream(address, wanted), streams, 0))
    rates, parts, seen, spent = [], [], list[Streamed](), 0.0
    for _ in range(rounds):
        raw = batch * tokens * calls / server.timed("raw", batch=batch, tokens=tokens, calls=calls)
        own, took = asyncio.run(closed_loop(lambda: stream(address, wanted), streams, seconds))
        served = figures(own, took, tokens)["tokens_per_second"]
        rates.append(raw)
        parts.append(served / raw)
        seen, spent = seen + own, spent + took
    return {
        "streams": streams,
        "tokens": tokens,
        **figures(seen, spent, tokens),
        "raw_batch": batch,
        "raw_tokens_per_second": Spread.of(rates).as_dict(),
        "share_of_raw": Spread.of(parts).as_dict(),
    }


def measure_overload(server: Server, rate: float, tokens: int, seconds: float) -> dict[str, Any]:
    """More requests a second than can be answered; then whether the server is idle again."""
    address = server.call("address")
    ask = lambda: stream(address, fields(tokens))  # noqa: E731
    seen, spent = asyncio.run(open_loop(ask, rate, seconds))
    return {"offered": rate, **figures(seen, spent, tokens), "left": left_over(server)}


def measure_memory(server: Server, requests: int, clients: int = 16) -> dict[str, Any]:
    """Bytes that the server holds after a tenth of many short requests, and after all."""
    address = server.call("address")

    async def ask(count: int) -> int:
        limit = asyncio.Semaphore(clients)

        async def one() -> bool:
            async with limit:
                return (await stream(address, fields(4))).whole

        return sum(await asyncio.gather(*(one() for _ in range(count))))

    answered = asyncio.run(ask(requests // 10))
    before = server.call("resident")
    answered += asyncio.run(ask(requests - requests // 10))
    after = server.call("resident")
    return {
        "requests": requests,
        "answered": answered,
        "bytes_after_a_tenth": before,
        "bytes_after_all": after,
    }


def measure_disconnects(
    server: Server, clients: int, tokens: int, within: float, seed: int = 0
) -> dict[str, Any]:
    """Clients that leave at random moments; what is left of them, and whether others are served."""
    address, moments = server.call("address"), random.Random(seed)

    async def leave() -> list[Streamed]:
        limit = asyncio.Semaphore(64)

        async def one(moment: float) -> Streamed:
            async with limit:
                return await stream(address, fields(tokens), leave=moment)

        return await asyncio.gather(*(one(moments.uniform(0, within)) for _ in range(clients)))

    seen = asyncio.run(leave())
    left = left_over(server)
    answered = asyncio.run(stream(address, fields(4)))
    return {
        "clients": clients,
        "left_before_the_end": sum(not one.whole for one in seen),
        "slots_lost": left,
        "answered_afterwards": answered.whole,
    }


def left_over(server: Server, patience: float = 10.0) -> int:
    """Requests that the engine still holds once it has had time to end them."""
    until = time.monotonic() + patience
    while True:
        found = server.call("counters")
        held: int = found["active"] + found["waiting"]
        if held == 0 or time.monotonic() > until:
            return held
        time.sleep(0.02)


def measure(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """All of it for one model."""
    found: dict[str, Any] = {"case": case.name, "shape": case.as_dict(), "streams": []}
    with serving(case, slots=case.B, queue=3 * case.B, queue_tokens=10**9) as server:
        for streams in args.streams:
            batch = min(streams, case.B)
            row = measure_streams(server, streams, case.T, args.seconds, args.rounds, batch)
            found["streams"].append(row)
            print(stream_table([row]), flush=True)
        full = max(found["streams"], key=lambda row: row["requests_per_second"])
        rate = 2 * full["requests_per_second"]
        found["overload"] = measure_overload(server, rate, case.T, args.overload_seconds)
        found["memory"] = measure_memory(server, args.requests, min(16, 2 * case.B))
        within = 2 * case.T * case.B / full["tokens_per_second"]
        found["disconnects"] = measure_disconnects(server, args.disconnects, case.T, within)
    with serving(case, slots=case.B, **UNBOUNDED) as server:
        found["unbounded"] = measure_overload(server, rate, case.T, args.overload_seconds)
    return found


def serving(case: Case, **options: Any) -> Worker:
    """A server of this model."""
    return Worker("benchmarks.served_model:Served", case=case.as_dict(), **options)


def stream_table(rows: Sequence[dict[str, Any]]) -> str:
    """Streams against the plain sampler."""
    headers = ["streams", "requests/s", "tokens/s", "first token p50", "p99", "share of raw"]
    lines = [
        [
            row["streams"],
            f"{row['requests_per_second']:.1f}",
            f"{row['tokens_per_second']:,.0f}",
            *(_milliseconds(row[f"first_token_{name}"]) for name in ("p50", "p99")),
            str(Spread(**row["share_of_raw"])),
        ]
        for row in rows
    ]
    return results.table(headers, lines)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


def case_section(found: dict[str, Any]) -> str:
    """One model."""
    parts = [f"### {found['case']}", stream_table(found["streams"])]
    for name, title in (("overload", "with the bound"), ("unbounded", "without it")):
        row = found[name]
        shown = [_milliseconds(row[f"first_token_{q}"]) for q in ("p50", "p99")]
        parts.append(
            f"Twice the load, {title}: {row['requests']} requests in {row['seconds']:.1f} s, "
            f"{row['refused']} refused, {row['failed']} failed; first token after {shown[0]} "
            f"(p99 {shown[1]})."
        )
    memory, left = found["memory"], found["disconnects"]
    grown = memory["bytes_after_all"] - memory["bytes_after_a_tenth"]
    parts.append(
        f"Memory: {memory['bytes_after_all'] / 2**20:.0f} MiB after {memory['requests']:,} "
        f"requests, {grown / 2**20:+.1f} MiB since a tenth of them. Of {left['clients']:,} clients "
        f"{left['left_before_the_end']:,} left before the end; {left['slots_lost']} slots lost."
    )
    return "\n\n".join(parts)


def section(data: dict[str, Any]) -> str:
    """The report's section."""
    parts = ["## The service under load", *map(case_section, data["models"])]
    if "classifier" in data:
        parts.append(classify_load.section(data["classifier"]))
    parts.append(
        "Each stream is a connection of its own that asks again when it is answered; client and "
        "server share the machine's cores. *Share of raw* is the tokens per second over those of "
        "`generate` at the batch that the streams fill, measured in turn; aimed at is "
        f"{TARGET:.0%} with 64 streams of 2xLSTM-512."
    )
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve.json"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--overload-seconds", type=float, default=15.0)
    parser.add_argument("--requests", type=int, default=10_000, help="of the test of memory")
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes")
    args = parser.parse_args(arguments)
    cases: Sequence[Case] = CASES
    if args.dry_run:
        cases, args.streams, args.rounds, args.seconds = TINY, [1, 2], 1, 0.1
        args.overload_seconds, args.requests, args.disconnects = 0.2, 20, 10
    rows = []
    for case in cases:
        rows.append(measure(case, args))
        print(case_section(rows[-1]) + "\n", flush=True)
    classifier = classify_load.measure(args.rounds, args.seconds / 2, tiny=args.dry_run)
    print(classify_load.section(classifier) + "\n", flush=True)
    results.write(args.out, "serve", models=rows, classifier=classifier)
    print(f"written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
