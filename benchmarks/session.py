"""A user's session with `lm.generate`: first token cold and warm, and the programs compiled.

`python -m benchmarks.session` starts one process on an empty compilation cache and one on the
cache that the first left. Each imports jaxgen, builds the model, makes one token, then 100 calls
with prompts of 1 to 300 characters, several lengths and settings.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import results
from benchmarks.cases import Case
from benchmarks.jaxgen_sampler import JaxgenText
from benchmarks.worker import Worker

CASE = Case(B=1, T=1, H=128, L=2)
CALLS = 100
COMPILED = "/jax/core/compile/backend_compile_duration"
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.2},
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 1.2, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 10},
)


class Session:
    """The contestant; its construction is timed by the worker."""

    def __init__(self, cache: str):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        self.programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        self.text = JaxgenText(CASE.as_dict(), warm=False)

    def _count(self, event: str, *_: Any, **__: Any) -> None:
        self.programs += event == COMPILED

    def first_token(self) -> None:
        """Make one character after ten."""
        self.text.lm.generate("0123456789", max_new_tokens=1, temperature=1.0, key=0)

    def calls(self, count: int) -> dict[str, Any]:
        """Mixed calls; the programs compiled and the seconds of each call."""
        before = self.programs
        seconds = []
        for index in range(count):
            prompt = "0123456789" * 30
            started = time.perf_counter()
            self.text.lm.generate(
                prompt[: 1 + (37 * index) % 300],
                max_new_tokens=(20, 50, 200)[index % 3],
                key=index,
                **SETTINGS[index % len(SETTINGS)],
            )
            seconds.append(time.perf_counter() - started)
        return {"programs": self.programs - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/session.json"))
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            with Worker("benchmarks.session:Session", cache=cache) as worker:
                first = worker.timed("first_token")
                calls = worker.call("calls", count=CALLS)
                found[name] = {
                    "import_and_build_seconds": worker.build_seconds,
                    "first_token_seconds": first,
                    "programs": calls["programs"],
                    "calls": CALLS,
                    "total_seconds": sum(calls["seconds"]),
                    "slowest_seconds": max(calls["seconds"]),
                }
    results.write(args.out, "session", case=CASE.name, **found)
    lines = [
        [
            name,
            f"{entry['import_and_build_seconds']:.2f}",
            f"{entry['first_token_seconds']:.3f}",
            entry["programs"],
            f"{entry['total_seconds']:.2f}",
            f"{entry['slowest_seconds']:.3f}",
        ]
        for name, entry in found.items()
    ]
    print(results.table(HEADERS, lines))


HEADERS = (
    "compilation cache",
    "import and build s",
    "first token s",
    f"programs in {CALLS} calls",
    "all calls s",
    "slowest s",
)


if __name__ == "__main__":
    main()
