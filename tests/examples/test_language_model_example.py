"""The example of a language model without the command line: it learns, and writes."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "language_model.py"


@pytest.mark.slow
def test_it_learns_and_writes(capsys):
    example = runpy.run_path(str(EXAMPLE))
    nll, samples = example["main"](
        steps=60, hidden_size=16, batch_size=8, length=16, max_new_tokens=10
    )
    assert nll < 3.6  # from the logarithm of some 80 characters, 4.4
    assert [len(sample) for sample in samples] == [len("The ") + 10] * 3
    assert "held out" in capsys.readouterr().out


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
