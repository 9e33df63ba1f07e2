"""Suite: `generate` under labels with a strength, by several models, and constrained."""

import dataclasses
from typing import Any

import pytest

from benchmarks.jaxgen_steering import Sampling, kinds_of
from benchmarks.steering import BYTES, SMALL

ROWS = [(case, kind) for case in (BYTES, SMALL) for kind in kinds_of(case)]


@pytest.mark.parametrize("batch", [1, 64], ids="B={}".format)
@pytest.mark.parametrize(
    ("case", "kind"), ROWS, ids=lambda x: x if isinstance(x, str) else f"H={x.H} V={x.V}"
)
def test_steering(case: Any, kind: str, batch: int, measure: Any) -> None:
    case = dataclasses.replace(case, B=batch)
    contestant = Sampling(case, kind)
    measure(
        contestant.run,
        suite="steering",
        shape=case.as_dict(),
        cost=contestant.cost(),
        amount=case.B,
        steps=case.T,
        first_call_compiles=True,
    )
