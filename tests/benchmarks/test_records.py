"""The small records: measured at a trial's size, written, and shown on the page."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import import_time, report, results, session
from benchmarks.worker import ROOT

pytestmark = pytest.mark.slow


def page(path: Path) -> str:
    return report.page({path.name: results.read(path)}, [])


def test_import_time(tmp_path: Path) -> None:
    out = tmp_path / "import_time.json"
    import_time.main(["--out", str(out), "--rounds", "1"])
    assert "`jaxgen --help`" in page(out)


def test_bounded_memory(tmp_path: Path) -> None:
    out = tmp_path / "bounded_memory.json"
    command = [sys.executable, "-m", "benchmarks.bounded_memory", "--gigabytes", "0.001"]
    command += ["--steps", "0", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    found = results.read(out)
    assert [row["phase"] for row in found["phases"]][:4] == ["start", "open", "tokenizer", "encode"]
    assert found["peak_megabytes"] >= found["phases"][0]["peak_megabytes"] > 1
    assert "peak resident MB" in page(out)


def test_session_is_shown(tmp_path: Path) -> None:
    entry = {
        "import_and_build_seconds": 1.0,
        "first_token_seconds": 0.5,
        "programs": 4,
        "calls": session.CALLS,
        "total_seconds": 2.0,
        "slowest_seconds": 0.3,
    }
    out = tmp_path / "session.json"
    results.write(out, "session", case=session.CASE.name, cold=entry, warm=entry)
    assert f"programs in {session.CALLS} mixed calls" in page(out)
