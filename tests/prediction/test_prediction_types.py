"""The declared types of `Classifier`, against mypy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.peers("mypy")
def test_mypy_knows_what_each_call_gives() -> None:
    command = [sys.executable, "-m", "mypy", "--warn-unused-ignores", "--follow-imports=silent"]
    file = Path("tests", "prediction", "typed_predictions.py")
    run = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
