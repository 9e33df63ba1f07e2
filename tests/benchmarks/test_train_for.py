"""A training of so many minutes: run by the command, evaluated, recorded, shown."""

import json
from pathlib import Path

import pytest

from benchmarks import report, results, train_for
from benchmarks.worker import ROOT

pytestmark = pytest.mark.slow

EXTRA = [
    *["--model.hidden-size", "8", "--training.batch-size", "2", "--training.sequence-length", "8"],
    *["--training.max-steps", "4", "--training.devices", "1", "--samples.temperatures", "0"],
    *["--samples.max-new-tokens", "1", "--data.validation-fraction", "0.1"],
]


def test_a_training_is_run_evaluated_and_recorded(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh ijkl\n" * 120)
    out = tmp_path / "small_model.json"
    config = str(ROOT / "configs/nietzsche.toml")
    options = ["--minutes", "5", "--out", str(out), "--validation-protocol", "windows"]
    train_for.main([config, *options, "--", "--data.files", str(text), *EXTRA])
    found = results.read(out)
    assert (found["name"], found["steps"]) == ("small model", 4)
    assert 0 < found["loop_seconds"] < found["command_seconds"]
    assert [(e["split"], e["protocol"]) for e in found["evaluations"]] == [
        ("validation", "exact"),
        ("validation", "windows"),
    ]
    assert all(e["nll"] > 0 and e["checkpoint"] == "best" for e in found["evaluations"])
    assert found["command"].startswith("python -m benchmarks.train_for configs/nietzsche.toml")
    assert str(tmp_path) not in json.dumps(found)
    assert "small model" in report.page({"small_model.json": found}, [])


def test_a_failing_command_ends_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train_for.main(["missing.toml", "--minutes", "1", "--out", str(tmp_path / "a.json")])
    assert ended.value.code == 2
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("configs/demo.toml", "configs/demo.toml"),
        (str(ROOT / "configs/demo.toml"), "configs/demo.toml"),
        ("/somewhere/text.txt", "text.txt"),
        ("--data.files=/somewhere/text.txt", "--data.files=text.txt"),
        ("0.5", "0.5"),
    ],
)
def test_a_record_has_no_folder_of_the_machine(argument: str, expected: str) -> None:
    assert train_for.shown(argument) == expected
