"""The example of a classifier without the command line: it learns."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "classifier.py"


@pytest.mark.slow
def test_it_learns(capsys):
    example = runpy.run_path(str(EXAMPLE))
    assert example["main"](epochs=2, hidden_size=8, batch_size=64) > 0.45  # of three classes
    assert "held out" in capsys.readouterr().out


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
