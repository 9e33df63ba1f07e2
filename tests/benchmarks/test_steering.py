"""What steering costs: who takes part, what each of them does, the record and its section."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import costs, report, results, steering
from benchmarks import jaxgen_steering as ours
from benchmarks.cases import Case

BYTES, PIECES = (Case(**{**case.as_dict(), "B": 2}) for case in steering.TINY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixture of 2", ours.PRODUCT])
def test_closed_form_is_the_products_in_the_program(kind: str) -> None:
    run = ours.Sampling(PIECES, kind)
    step = partial(costs.traced_flops, run.step_fn)
    assert step(run.params, run.steered.carry, run.prompt[:, 0]) == run.cost().flops


@pytest.mark.slow
def test_a_trial_is_recorded_and_shown(tmp_path: Path) -> None:
    content = steering.measure(BYTES, [ours.PLAIN, ours.UTF8], rounds=1, target=1e-4)
    results.write(tmp_path / "steering.json", "steering", **content)
    page = report.page({"steering.json": results.read(tmp_path / "steering.json")}, [])
    assert re.search(r"### B=2 T=2 H=3 V=256\n(.*\n)+\| constrained, UTF-8 +\|", page)
    [entry] = content["ratios"]
    plain, other = (row["seconds"]["median"] for row in content["rows"])
    assert entry["times"]["median"] == pytest.approx(other / plain)
    assert content["rows"][0]["tokens_per_second"] == pytest.approx(2 / plain)


def test_targets_are_held_to_the_medians() -> None:
    spread = dict.fromkeys(("lower", "upper", "minimum", "maximum"), 1e-5) | {"count": 3}
    names = (ours.PLAIN, ours.GUIDED, ours.PRODUCT)

    def shown(batch: int, hidden: int, times: tuple[float, float]) -> str:
        row = {"case": "x", "shape": {"B": batch, "H": hidden}, "compile_seconds": 1.0}
        row |= {"seconds": spread | {"median": 1e-5}, "tokens_per_second": 1.0}
        ratios = [
            {"slower": name, "times": spread | {"median": value}}
            for name, value in zip(names[1:], times, strict=True)
        ]
        return steering.case_section([row | {"contestant": name} for name in names], ratios)

    def said(section: str) -> list[tuple[str, str]]:
        pattern = r"\| (guided|ensemble)[^|]*\| +([\d.]+) \|[^|]*\| +(reached|missed) \|"
        return [(aim, met) for _, aim, met in re.findall(pattern, section)]

    assert said(shown(1, 128, (1.3, 7.1))) == [("1.3", "reached"), ("7", "missed")]
    assert said(shown(1, 256, (1.31, 6.0))) == [("1.3", "missed")]
    assert said(shown(64, 128, (1.9, 6.0))) == [("1.9", "reached")]


@pytest.mark.slow
def test_a_dry_run_has_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("interegular")
    out = tmp_path / "steering.json"
    assert steering.main(["--dry-run", "--out", str(out)]) == 0
    assert {row["contestant"] for row in results.read(out)["rows"]} == set(ours.KINDS)


@pytest.mark.slow
def test_constrained_texts_are_what_they_must_be() -> None:
    pytest.importorskip("interegular")
    case = Case(**{**PIECES.as_dict(), "T": 40})
    automaton = ours.of_sentences(case.V)
    state = np.zeros(case.B, np.int32)
    for tokens in ours.Sampling(case, ours.REGEX).tokens(0).T:
        state = automaton.transitions[state, automaton.classes[tokens]]
        assert (state >= 0).all()
    case = Case(**{**BYTES.as_dict(), "T": 40})
    for row in ours.Sampling(case, ours.UTF8).tokens(0):
        text = bytes(row.tolist()).decode(errors="replace")
        assert "�" not in text[:-3]  # a character may be cut short at the end
