"""Contestants with an adaptive softmax solve the same problem; the comparison runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare_adaptive, report, results
from benchmarks.adaptive_cases import AdaptiveCase
from benchmarks.jaxgen_adaptive import AdaptiveTraining

CASE = AdaptiveCase(B=3, T=4, H=16, V=61, E=5, cutoffs=(7, 20))
ROW = {
    **{"suite": "adaptive training", "case": "small", "final": True, "tokens_per_second": 12.0},
    "seconds": {"median": 2.0},
}
RATIO = {"median": 3.0, "lower": 2.5, "upper": 3.5, "minimum": 2.0, "maximum": 4.0, "count": 5}


def test_tokens_are_as_frequent_as_the_case_says() -> None:
    case = AdaptiveCase(B=8, T=2000, H=4, V=61, cutoffs=(7, 20))
    counts = np.bincount(case.batches(1)[0, :, 1:].reshape(-1), minlength=61)
    expected = 16_000 * case.shares
    # 61 counts within 5 standard deviations: a false alarm has probability 4e-5.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert abs(sum(case.cluster_shares) - 1) < 1e-12
    assert AdaptiveCase(**json.loads(json.dumps(case.as_dict()))) == case


@pytest.mark.slow
@pytest.mark.peers("torch")
@pytest.mark.parametrize("adaptive", [True, False])
def test_torch_shows_the_same_first_loss(adaptive: bool) -> None:
    pytest.importorskip("torch")
    from benchmarks.peers.torch_adaptive import TorchAdaptiveTraining

    case = {**CASE.as_dict(), "adaptive": adaptive}
    found = [made(case, pool=2).losses(1) for made in (AdaptiveTraining, TorchAdaptiveTraining)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_the_section_shows_contestants_and_ratios() -> None:
    rows = [{**ROW, "contestant": name} for name in ("jaxgen adaptive", "torch full")]
    ratio = {"slower": "torch full", "faster": "jaxgen adaptive", "case": "small", "times": RATIO}
    shown = compare_adaptive.section({"rows": rows, "ratios": [ratio]})
    assert "### Adaptive training, small" in shown
    assert "3 [2.5, 3.5]" in shown
    assert report.SECTIONS["adaptive"] is compare_adaptive.section


@pytest.mark.slow
def test_the_comparison_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(compare_adaptive.machine, "ceilings", lambda **_: {})
    monkeypatch.setattr(compare_adaptive, "installed", lambda _: False)
    monkeypatch.setattr(compare_adaptive, "SETTINGS", ("temperature",))
    monkeypatch.setattr(compare_adaptive, "SAMPLING", compare_adaptive.SAMPLING[:1])
    out = tmp_path / "adaptive.json"
    assert compare_adaptive.main(["--dry-run", "--out", str(out)]) == 0
    found = results.read(out)
    assert [row["suite"] for row in found["rows"]] == ["adaptive training"] * 2 + [
        "adaptive sampling"
    ] * 2
    assert len(found["ratios"]) == 2
