"""The record of a trained encoder-decoder: what is measured is what the report shows."""

from pathlib import Path

import pytest

from benchmarks import translator
from benchmarks.report import page

FIGURES = {"pairs": 20, "nll": 1.5, "exact_match": 0.25, "bleu": 41.104, "chrf": 60.2}
FIGURES |= {"bleu_signature": "tok:none"}
COPIES = {"exact_match": 0.0, "bleu": 10.68, "chrf": 29.4}
RECORD = {
    **{"kind": "translator", "machine": {"platform": "cpu"}, "name": "captions"},
    **{"minutes": 27.04, "steps": 4616, "epochs": 8.0, "command": "the command", "remark": "Note."},
    "evaluations": [
        {"split": "validation", **FIGURES},
        {
            "split": "test",
            **FIGURES,
            "nearest_pair": COPIES,
            "unseen_formats": {"exact_match": 0.5},
        },
    ],
    "answers": [["a | b", "c", "d"]],
}


def test_a_section_shows_each_row_and_answer():
    text = translator.section(RECORD)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["test", "20", "0.2500", "41.10", "60.20"] in rows
    assert ["nearest training pair", "", "0.0000", "10.68", "29.40"] in rows
    assert ["unseen formats", "", "0.5000", "", ""] in rows
    assert "27.0 minutes. Note. `the command` BLEU: `tok:none`." in text
    assert "a \\| b" in text


def test_the_report_knows_it():
    assert "## captions: translations" in page({"captions.json": RECORD}, [])


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    missing = [str(tmp_path / "none"), "--out", str(tmp_path / "out.json")]
    assert translator.main(missing) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
