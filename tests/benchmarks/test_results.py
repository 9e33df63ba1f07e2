"""Result files, their comparison, and the page made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare_results, machine, report, results
from benchmarks.cases import Case
from benchmarks.timing import Spread
from benchmarks.worker import ROOT

CEILINGS = {
    "matmul": {"float32": 2e11, "bfloat16": 1e11},
    "read": {"cache_small": 1e11, "cache_large": 9e10, "memory": 3e10},
    "copy": {"cache_small": 1e11, "cache_large": 9e10, "memory": 3e10},
}


def row(name: str, *seconds: float, suite: str = "training") -> dict[str, Any]:
    spread = Spread.of(seconds)
    case = Case(B=2, T=3, H=4)
    return {
        "suite": suite,
        "case": case.name,
        "shape": {**case.as_dict(), "dtype": "float32"},
        "contestant": name,
        "final": True,
        "seconds": spread.as_dict(),
        "tokens_per_second": 6 / spread.median,
        "flops_per_second": 1e9,
        "share_of_matmul": 0.5,
        "intensity": 3.0,
    }


def entry(*times: float) -> dict[str, Any]:
    case = Case(B=2, T=3, H=4).name
    spread = Spread.of(times).as_dict()
    return {
        "suite": "training",
        "case": case,
        "slower": "torch",
        "faster": "jaxgen",
        "times": spread,
    }


def write(path: Path, rows: list, ratios: list) -> Path:
    results.write(path, "training", ceilings=CEILINGS, rows=rows, ratios=ratios)
    return path


def test_a_row_is_slower_only_beyond_both_spreads() -> None:
    old = {"rows": [row("a", 1.0, 1.1, 1.2), row("b", 1.0, 1.1, 1.2)]}
    new = {"rows": [row("a", 1.1, 1.2, 1.3), row("b", 1.5, 1.6, 1.7), row("c", 9.0)]}
    found = compare_results.slower_rows(old, new)
    assert [line[0].split(" | ")[-1] for line in found] == ["b"]
    assert found[0][-1] == "1.45x"


def test_a_ratio_is_worse_only_beyond_both_spreads() -> None:
    old = {"ratios": [entry(2.0, 2.1, 2.2)]}
    assert not compare_results.worse_ratios(old, {"ratios": [entry(1.9, 2.05, 2.2)]})
    assert compare_results.worse_ratios(old, {"ratios": [entry(1.0, 1.1, 1.2)]})


def compare(monkeypatch: Any, *paths: Path) -> int:
    monkeypatch.setattr("sys.argv", ["compare_results", *map(str, paths)])
    return compare_results.main()


@pytest.mark.parametrize(("seconds", "code"), [(1.0, 0), (2.0, 1)])
def test_comparison_exit_code(
    seconds: float, code: int, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    old = write(tmp_path / "old.json", [row("a", 1.0, 1.0)], [])
    new = write(tmp_path / "new.json", [row("a", seconds, seconds)], [])
    assert compare(monkeypatch, old, new) == code
    assert f"1 rows in both files: {code} slower" in capsys.readouterr().out


@pytest.mark.parametrize(("times", "code"), [(1.0, 0), (1.5, 1), (0.5, 0)])
def test_comparison_of_pytest_benchmark_files(
    times: float, code: int, tmp_path: Path, monkeypatch: Any
) -> None:
    old = suite_file(tmp_path / "old.json", 1.0)
    assert compare(monkeypatch, old, suite_file(tmp_path / "new.json", times)) == code


def test_comparison_of_recorded_files(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A recorded file against itself, and against one whose peer has caught up."""
    path = ROOT / "benchmarks/results/training.json"
    assert compare(monkeypatch, path, path) == 0
    data = json.loads(path.read_text())
    times = data["ratios"][0]["times"]
    data["ratios"][0]["times"] = {key: value / 2 for key, value in times.items()}
    caught_up = tmp_path / "new.json"
    caught_up.write_text(json.dumps(data))
    assert compare(monkeypatch, path, caught_up) == 1
    assert "0 slower, 1 ratios worse" in capsys.readouterr().out


def test_comparison_names_what_it_cannot_read(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    good = write(tmp_path / "good.json", [], [])
    assert compare(monkeypatch, good, tmp_path / "none.json") == 2
    assert "cannot be read" in capsys.readouterr().err
    other = tmp_path / "session.json"
    results.write(other, "session")
    assert compare(monkeypatch, other, good) == 2
    assert "has no rows" in capsys.readouterr().err


def suite_file(path: Path, times: float) -> Path:
    """A file as pytest-benchmark writes it, of a benchmark of 2 units of 2 steps."""
    stats = {"median": 8.0, "q1": 7.0, "q3": 9.0, "min": 6.0, "max": 16.0}
    stats = {key: times * value for key, value in stats.items()} | {"rounds": 7}
    info = {"suite": "train step", "units": 2, "steps_per_unit": 2, "contestant": "jaxgen"}
    data = {
        "benchmarks": [{"name": "test_train_step[x]", "stats": stats, "extra_info": info}],
        "machine_info": {"jaxgen_machine": {"device": "d"}, "jaxgen_ceilings": CEILINGS},
    }
    path.write_text(json.dumps(data))
    return path


def test_pytest_benchmark_files_are_read_a_unit_at_a_time(tmp_path: Path) -> None:
    read = results.read(suite_file(tmp_path / "suite.json", 1.0))
    assert read["machine"] == {"device": "d"}
    seconds = read["rows"][0]["seconds"]
    assert (seconds["lower"], seconds["median"], seconds["upper"]) == (1.75, 2, 2.25)


def test_table_lines_up() -> None:
    lines = results.table(["", "s"], [["long name", "1"], ["x", "12.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_page_names_machine_contestants_and_ratios(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [row("jaxgen", 1.0, 1.0), row("torch", 2.0)], [entry(2.0)])
    page = report.page({"a.json": results.read(path)}, ["plots/peers_training.png"])
    assert "(plots/peers_training.png)" in page
    for expected in ("revision", "jaxgen is faster by", "torch", "not yet measured"):
        assert expected in page


def test_report_writes_page_and_plots(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib")
    rows = [row("jaxgen", 1.0), row("torch", 2.0)]
    write(tmp_path / "a.json", rows, [entry(2.0)])
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "-o", str(out)])
    assert report.main() == 0
    assert "plots/peers_training.png" in out.read_text()
    assert (tmp_path / "plots/peers_training.png").stat().st_size > 1000


FILES = {
    "there is no folder": None,
    "no result files": {},
    "is empty": {"a.json": ""},
    "is not JSON": {"a.json": '{"kind": '},
    "needs `kind` and `machine`": {"a.json": "[1]"},
    "not a result file": {"a.json": '{"benchmarks": [{"name": "x"}]}'},
    "the kind 'other'": {"a.json": '{"kind": "other", "machine": {}}'},
    "is incomplete": {"a.json": '{"kind": "training", "machine": {}, "rows": [{}]}'},
}


@pytest.mark.parametrize("message", FILES)
def test_report_names_what_it_cannot_read(
    message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    files = FILES[message]
    folder = tmp_path / "results"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["report", str(folder), "-o", str(out)])
    assert report.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert not out.exists()


def test_the_recorded_results_make_the_page_and_its_plots(tmp_path: Path, monkeypatch: Any) -> None:
    recorded = ROOT / "benchmarks/results"
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["report", str(recorded), "-o", str(out)])
    assert report.main() == 0
    for path in recorded.glob("*.json"):
        assert f"`{path.name}`" in out.read_text()
        assert "/tmp/" not in path.read_text()  # no folder of the machine is recorded


def test_description_is_json_and_names_what_runs() -> None:
    found = machine.description()
    assert json.loads(json.dumps(found)) == found
    assert {"jax", "numpy"} <= set(found["versions"])
    assert found["cores"] >= 1
