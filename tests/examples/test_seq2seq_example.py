"""The example of an encoder-decoder: it learns to write dates."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "seq2seq.py"


@pytest.mark.slow
def test_it_learns(capsys):
    example = runpy.run_path(str(EXAMPLE))
    assert 0 <= example["main"](examples=600, epochs=2, hidden_size=16, shown=2) <= 1
    shown = capsys.readouterr().out
    rates = [float(line.split()[2]) for line in shown.splitlines() if line.startswith("epoch")]
    assert rates[1] > rates[0] > 0.1
    assert "held-out dates are right" in shown


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
