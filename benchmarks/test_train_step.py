"""Suite: optimizer steps of the language model, forward to Adam."""

from typing import Any

from benchmarks import costs
from benchmarks.grid import Entry
from benchmarks.jaxgen_lm import JaxgenTraining


def test_train_step(training_entry: Entry, measure: Any, benchmark: Any, ceilings: Any) -> None:
    case, dtype = training_entry
    contestant = JaxgenTraining(case.as_dict(), dtype=dtype)
    cost = costs.train_step(case)
    seconds = measure(
        contestant.run,
        suite="train step",
        shape={**case.as_dict(), "dtype": dtype},
        intensity=cost.intensity,
        **contestant.facts(),
    )
    benchmark.extra_info.update(
        tokens_per_second=case.B * case.T / seconds,
        flops_per_second=cost.flops / seconds,
        share_of_matmul=cost.flops / seconds / ceilings["matmul"][dtype],
    )
