"""What several seeds trained as one program cost against one run.

    python -m benchmarks.seeds --out benchmarks/results/seeds.json

The run is an ordinary one on the devices where it is fastest; the seeds are trained as
`jaxgen train --seeds N` does it. All take turns in one process.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import results
from benchmarks.cases import Case
from benchmarks.jaxgen_lm import JaxgenTraining, loss_of, model_of
from benchmarks.timing import Spread, Timer, interleave, ratio, units_for
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.parallel import jit_multi_step, most_devices, request_host_devices
from jaxgen.training.seeds import first_states, make_seed_layout
from jaxgen.training.step import TrainState, init_state, make_train_step

COUNTS = (1, 2, 4, 8, 16)
RUN = "one run"


class Seeds:
    """So many seeds of a case, `pool` optimizer steps a dispatch, divided over the devices."""

    def __init__(self, case: Case, seeds: int, devices: int, pool: int = 16):
        model = model_of(case).clone(backend="scan")
        rule = {"learning_rate": case.learning_rate, "clip_norm": case.clip_norm}
        tx = make_optimizer(name="adam", **rule)
        layout = make_seed_layout(seeds, devices)

        def state_of(key: jax.Array) -> TrainState:
            params = model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
            return init_state(params, tx, key, carry=model.initial_carry(case.B))

        keys = jax.random.split(jax.random.key(case.seed), seeds)
        self.state = first_states(state_of, list(keys), layout)
        self.batches = layout.place_batches({"tokens": case.batches(pool)})
        self.pool = pool
        started = time.perf_counter()
        steps = jit_multi_step(make_train_step(loss_of(model), tx), layout)
        self.multi_step = steps.lower(self.state, self.batches, jnp.int32(pool)).compile()
        self.compile_seconds = time.perf_counter() - started
        # What still runs here would starve the threads of another's collective for ever.
        jax.block_until_ready((self.state, self.batches))

    run = JaxgenTraining.run


def seconds_of(contestant: Any, steps: int) -> float:
    """Seconds a step (of all seeds)."""
    started = time.perf_counter()
    contestant.run(steps)
    return (time.perf_counter() - started) / steps


def measure(case: Case, counts: Sequence[int], rounds: int, target: float) -> dict[str, Any]:
    """Rows and ratios of a case."""
    contestants: dict[str, Any] = {}
    devices = {RUN: 1} | {name_of(n): most_devices(n) for n in counts}
    layouts = sorted({1, most_devices(case.B)})
    singles = {n: JaxgenTraining(case.as_dict(), devices=n) for n in layouts}
    trial = interleave(
        {str(n): lambda single=single: seconds_of(single, 16) for n, single in singles.items()},
        rounds=3,
    )
    devices[RUN] = min(layouts, key=lambda n: Spread.of(trial[str(n)]).median)
    contestants[RUN] = singles[devices[RUN]]
    for n in counts:
        contestants[name_of(n)] = Seeds(case, n, devices[name_of(n)])
    timers: dict[str, Timer] = {}
    for name, contestant in contestants.items():
        steps = units_for(lambda steps, c=contestant: seconds_of(c, steps) * steps, target)
        timers[name] = lambda c=contestant, steps=steps: seconds_of(c, steps)
    seconds = interleave(timers, rounds=rounds)
    rows = []
    for name, values in seconds.items():
        spread, seeds = Spread.of(values), 1 if name == RUN else int(name.split()[0])
        rows.append(
            {
                "suite": "seeds",
                "case": case.name,
                "shape": case.as_dict(),
                "contestant": name,
                "seeds": seeds,
                "devices": devices[name],
                "seconds": spread.as_dict(),
                "tokens_per_second": seeds * case.B * case.T / spread.median,
                "compile_seconds": contestants[name].compile_seconds,
            }
        )
    ratios = [
        {
            "suite": "seeds",
            "case": case.name,
            "slower": name_of(n),
            "faster": RUN,
            "times": ratio(seconds[name_of(n)], seconds[RUN]).as_dict(),
        }
        for n in counts
    ]
    return {"rows": rows, "ratios": ratios}


def name_of(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)} together"


def section(data: dict[str, Any]) -> str:
    """The part of the report."""
    times = {entry["slower"]: Spread(**entry["times"]) for entry in data["ratios"]}
    lines = []
    for row in data["rows"]:
        cost = times.get(row["contestant"])
        scale = 1e3 / row["seeds"]
        each = {k: v * scale for k, v in row["seconds"].items() if k != "count"}
        lines.append(
            [
                row["contestant"],
                row["devices"],
                f"{row['seconds']['median'] * 1e3:.3g}",
                str(Spread(**each, count=1)),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['compile_seconds']:.1f}",
                "1" if cost is None else str(cost),
            ]
        )
    headers = ["", "devices", "ms/step", "ms/step and seed", "tokens/s", "compile s", "runs' time"]
    parts = [
        f"## Several seeds as one program, {data['rows'][0]['case']}",
        results.table(headers, lines),
        "*Runs' time*: how many times a step of one run (on the devices where it is fastest) a "
        "step of all seeds takes; fewer than the seeds is a gain.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/seeds.json"))
    parser.add_argument("--quick", action="store_true", help="a trial: 1 and 8 seeds, few rounds")
    args = parser.parse_args()
    request_host_devices()
    counts, rounds, target = ((1, 8), 5, 0.2) if args.quick else (COUNTS, 11, 0.5)
    content = measure(Case(B=50, T=50, H=128), counts, rounds, target)
    results.write(args.out, "seeds", **content)
    print(section(content) + f"\n\nwritten to {args.out}")


if __name__ == "__main__":
    main()
