"""Suite: `generate`, a token for each row of the batch a step."""

from typing import Any

from benchmarks import costs
from benchmarks.grid import Entry
from benchmarks.jaxgen_sampler import JaxgenSampling


def test_sampler(sampling_entry: Entry, measure: Any) -> None:
    case, dtype = sampling_entry.case, sampling_entry.dtype
    contestant = JaxgenSampling(case.as_dict(), dtype=dtype, inside_jit=True)
    measure(
        contestant.run,
        suite="sampler",
        shape=sampling_entry.shape,
        cost=costs.sampler_step(case, itemsize=costs.itemsize(dtype)),
        amount=case.B,
        steps=case.T,
        dtype=dtype,
        **contestant.facts(),
    )
