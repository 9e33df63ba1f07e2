"""The GPU's benchmarks on a CPU: every contestant is made and run, with tiny shapes."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import (
    compare_recurrence,
    compare_sampling,
    compare_training,
    contestants,
    gpu,
    machine,
    plots,
    report,
    results,
    variants,
)
from benchmarks.cases import Case
from benchmarks.jaxgen_recurrence import JaxgenRecurrence
from benchmarks.timing import timer
from benchmarks.worker import WorkerError, build

pytestmark = pytest.mark.slow

CEILINGS = {
    "matmul": {"float32": 2e11, "bfloat16": 1e11},
    **{k: {"cache_small": 1e11, "cache_large": 9e10, "memory": 3e10} for k in ("read", "copy")},
}
NEEDS_A_GPU = {"jaxgen cudnn", "jaxgen cudnn float32", "jaxgen cudnn tf32", "torch graph"}
NEEDS_A_GPU |= {"torch cudnn half"}  # in training; oneDNN has no half precision
PARTS = {
    "recurrence": (compare_recurrence, ["scan bfloat16, unroll 8", "torch cudnn half"]),
    "sampling": (compare_sampling, ["generate in jit, double buffered", "torch manual"]),
    "training": (compare_training, ["scan bfloat16, double buffered", "torch cudnn tf32"]),
}


class InProcess:
    """A `Worker` without its process: the same calls, JSON in and out."""

    def __init__(self, target: str, *, python: str, env: dict[str, str], **options: Any):
        try:
            with jax.numpy_dtype_promotion("standard"):
                self.contestant = build(target, json.loads(json.dumps(options)))
        except Exception as error:
            raise WorkerError(f"{type(error).__name__}: {error}") from error

    def call(self, method: str, **arguments: Any) -> Any:
        try:
            with jax.numpy_dtype_promotion("standard"):
                return json.loads(json.dumps(getattr(self.contestant, method)(**arguments)))
        except Exception as error:
            raise WorkerError(f"{type(error).__name__}: {error}") from error

    def timed(self, method: str, **arguments: Any) -> float:
        return timer(lambda: self.call(method, **arguments))()

    def peak_bytes(self) -> int:
        return 1

    def close(self) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch: Any) -> None:
    monkeypatch.setattr(contestants, "Worker", InProcess)
    monkeypatch.setattr(contestants, "PAUSE", 0.0)
    monkeypatch.setattr(machine, "ceilings", lambda quick: CEILINGS)
    one = "double buffered"  # flags do nothing here: one stands for all
    monkeypatch.setattr(variants, "FLAGS", {one: variants.FLAGS[one]})
    monkeypatch.setattr(jax.lax, "scan", jax.lax.scan)  # a contestant replaces it; put back


@pytest.mark.peers("torch")
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", PARTS)
def test_every_contestant_runs(name: str, tmp_path: Path, capsys: Any) -> None:
    module, expected = PARTS[name]
    out = tmp_path / f"gpu-{name}.json"
    options = ["--out", str(out), "--dry-run", "--trials"]
    assert module.main(options + (["--gpu"] if name != "recurrence" else [])) == 0
    found = results.read(out)
    measured = {row["contestant"] for row in found["rows"]}
    for part in expected:
        assert any(part in contestant for contestant in measured), part
    said = [line for line in capsys.readouterr().out.splitlines() if "does not take part" in line]
    assert {line.partition(" does not")[0] for line in said} <= NEEDS_A_GPU
    assert found["ratios"]
    assert all(row["share_of_floor"] > 0 for row in found["rows"])
    assert measured & {entry["slower"] for entry in found["ratios"]}
    found["machine"]["platform"] = "gpu"
    assert "not yet measured" not in report.page({out.name: found}, [])
    pytest.importorskip("matplotlib")
    assert plots.draw_all({out.name: found}, tmp_path) == [tmp_path / f"gpu_peers_{name}.png"]


def test_recurrence_agrees_forward_and_back() -> None:
    case = Case(B=2, T=4, H=8, V=2, E=8).as_dict()
    contestant = JaxgenRecurrence(case, precision="float32")
    forward = contestant.check()
    contestant.choose("both")
    assert contestant.check() == pytest.approx(forward, abs=1e-6)
    assert contestant.facts()["program_bytes"] > 0
    hidden, (params, inputs) = contestant.call()
    assert hidden.shape == inputs.shape == (4, 2, 8)
    assert params["params"]["layer_0"]["recurrent_kernel"].shape == (8, 32)


def test_those_that_disagree_are_named_and_leave(in_process: None, capsys: Any) -> None:
    case = Case(B=2, T=4, H=8, V=2, E=8).as_dict()
    target = compare_recurrence.OURS
    right = contestants.Contestant("right", "a", target, {"precision": "float32"})
    wrong = contestants.Contestant("wrong", "b", target, {"dtype": "bfloat16"}, tolerance=1e-12)
    running = contestants.start_all([right, wrong], case)
    assert contestants.agreeing(running, "check", mean=True) == [right]
    assert "wrong does not take part: `check` is off by" in capsys.readouterr().out


def test_nobody_starts_after_the_deadline(in_process: None, capsys: Any) -> None:
    entry = contestants.Contestant("late", "a", compare_recurrence.OURS)
    assert contestants.start_all([entry], {}, deadline=0.0) == []
    assert "late does not take part: the minutes are over" in capsys.readouterr().out


@pytest.mark.parametrize("module", [gpu, compare_recurrence])
def test_without_a_gpu_one_line_says_so(module: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    assert module.main([]) == 2
    assert capsys.readouterr().err.startswith("error: JAX sees no GPU here")


def test_all_steps_run_though_one_fails(monkeypatch: Any, capsys: Any) -> None:
    def steps(results: Path, dry: bool, minutes: float) -> dict[str, tuple[float, list[str]]]:
        return {"bad": (0.5, ["-c", "raise SystemExit(3)"]), "good": (0.5, ["-c", "pass"])}

    monkeypatch.setattr(gpu, "steps", steps)
    assert gpu.main(["--dry-run"]) == 1
    assert "bad: FAILED" in (said := capsys.readouterr().out)
    assert "good: done" in said


def test_steps_are_commands_within_the_minutes(tmp_path: Path) -> None:
    found = gpu.steps(tmp_path, dry=False, minutes=30)
    assert next(iter(found)) == "recurrence"
    assert sum(minutes for minutes, _ in found.values()) == pytest.approx(30)
    assert all(str(tmp_path) in " ".join(command) for _, command in found.values())


def test_flags_join_those_given_already(monkeypatch: Any) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    flags = [env["XLA_FLAGS"] for _, _, env in variants.variants(trials=True) if env]
    assert len(flags) == len(variants.FLAGS)
    assert all(flag.startswith("--xla_a=1 --xla_gpu_") for flag in flags)
