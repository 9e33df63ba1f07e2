"""Suite: optimizer steps of the language model, forward to Adam."""

from typing import Any

import jax
import pytest

from benchmarks import costs
from benchmarks.grid import Entry
from benchmarks.jaxgen_lm import JaxgenTraining
from jaxgen.ops.backends import RecurrenceSpec, choose_backend, platform_here, unsupported_reason


def skip_unless_it_adds_a_row(entry: Entry) -> str:
    """The backend's name; skips what cannot run here and what another row measures."""
    case, where = entry.case, platform_here()
    spec = RecurrenceSpec(case.T, case.B, case.H, entry.dtype)
    chosen = choose_backend("auto", spec, where).name
    if entry.devices > jax.device_count():
        pytest.skip(f"there are not {entry.devices} devices")
    if entry.backend == "auto":
        return chosen
    reason = unsupported_reason(entry.backend, spec, where)
    if reason or entry.backend == chosen:
        pytest.skip(reason or "the automatic choice, measured already")
    return entry.backend


def test_train_step(training_entry: Entry, measure: Any) -> None:
    case, dtype, backend, devices = training_entry
    name = skip_unless_it_adds_a_row(training_entry)
    contestant = JaxgenTraining(case.as_dict(), dtype=dtype, backend=backend, devices=devices)
    measure(
        contestant.run,
        suite="train step",
        shape={**training_entry.shape, "backend": name},
        cost=costs.train_step(case, itemsize=costs.itemsize(dtype)),
        amount=case.B * case.T,
        dtype=dtype,
        **contestant.facts(),
    )
