"""Runs, seeds and exports that the first format left load, continue and say the same."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxgen.config.toml import read_toml
from jaxgen.experiment import describe, evaluate, load, train
from jaxgen.training.indexes import FORMAT, migrated
from jaxgen.training.run_progress import Progress
from jaxgen.training.runs import Run

FIXTURES = Path(__file__).parent / "fixtures" / "format_1"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy to work in; the corpus is named relative to it."""
    folder = tmp_path_factory.mktemp("old") / "format_1"
    shutil.copytree(FIXTURES, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def text_of(path: str) -> str:
    """Special tokens were sampled like any others."""
    return load(path).generate(
        "1 and ", max_new_tokens=24, temperature=0.5, key=3, allow_special=True
    )


def test_it_loads_and_says_the_same(old: Path) -> None:
    assert text_of("run") == EXPECTED["text"]
    assert text_of("export") == EXPECTED["text"]
    facts = describe("run")
    for name, value in EXPECTED["info"].items():
        assert facts[name] == pytest.approx(value, rel=1e-6), name
    assert describe("seeds")["runs"]["seed-0"]["steps"] == 4
    assert describe("export")["vocab_size"] == EXPECTED["info"]["vocab_size"]


def test_a_run_continues(old: Path) -> None:
    train(read_toml("config.toml"), out="run", resume=True)
    assert evaluate("run")["nll"] == pytest.approx(EXPECTED["continued_nll"], rel=1e-5)
    assert text_of("run") == EXPECTED["continued_text"]
    run = Run.open("run")
    assert sorted({name for row in run.read_metrics() for name in row}) == EXPECTED["rows"]
    assert json.loads(Path("run/run.json").read_text())["format"] == FORMAT
    assert set(run.notes["corpus"]) == {"train", "validation", "test"}


@pytest.mark.slow
def test_seeds_continue(old: Path) -> None:
    train(read_toml("config.toml"), out="seeds", resume=True)
    found = [evaluate(f"seeds/seed-{seed}", which="last")["nll"] for seed in (0, 1)]
    assert found == pytest.approx(EXPECTED["seeds_nll"], rel=1e-5)


def test_an_unfinished_row_is_carried_over() -> None:
    row = [12.0, 6.0, 0.5, 2]
    last = {"progress": {"seconds": 1.0, "validation": [2.0], "row": row, "stopped": None}}
    index: dict[str, Any] = {"format": 1, "notes": {}, "last": last}
    progress = Progress.from_saved(migrated(index)["last"]["progress"])
    assert progress.row.sums == {"nll": [12.0, 6.0]}
    assert (progress.row.grad_norm, progress.row.steps) == (0.5, 2)
