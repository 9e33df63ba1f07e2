"""The example of a model that follows a label: it writes each label at each strength."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "steer.py"


@pytest.mark.slow
def test_it_writes(capsys):
    texts = runpy.run_path(str(EXAMPLE))["main"](epochs=3, hidden_size=32)
    assert {name: len(rows) for name, rows in texts.items()} == dict.fromkeys(
        ("negative", "neutral", "positive"), 3
    )
    assert all(" " in text for rows in texts.values() for text in rows)
    assert "guidance 3" in capsys.readouterr().out


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
