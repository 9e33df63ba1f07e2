"""Suite: `generate`, a token for each row of the batch a step."""

from typing import Any

from benchmarks import costs
from benchmarks.grid import Entry
from benchmarks.jaxgen_sampler import JaxgenSampling


def test_sampler(sampling_entry: Entry, measure: Any, benchmark: Any, ceilings: Any) -> None:
    case, dtype = sampling_entry
    contestant = JaxgenSampling(case.as_dict(), dtype=dtype, inside_jit=True)
    cost = costs.sampler_step(case)
    floor = costs.floor_seconds(cost, ceilings, dtype=dtype)
    calls = measure(
        contestant.run,
        suite="sampler",
        shape={**case.as_dict(), "dtype": dtype},
        intensity=cost.intensity,
        **contestant.facts(),
    )
    seconds = calls / case.T
    benchmark.extra_info.update(
        steps_per_unit=case.T,
        tokens_per_second=case.B / seconds,
        flops_per_second=cost.flops / seconds,
        share_of_matmul=cost.flops / seconds / ceilings["matmul"][dtype],
        floor_seconds=floor,
        share_of_floor=floor / seconds,
    )
