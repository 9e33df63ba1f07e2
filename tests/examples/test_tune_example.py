"""The example of tuning: its best model is a run that loads."""

import runpy
from pathlib import Path

import pytest

import jaxgen

EXAMPLE = Path(__file__).parents[2] / "examples" / "tune.py"


@pytest.mark.slow
def test_it_tunes(tmp_path, capsys):
    pytest.importorskip("optuna")
    example = runpy.run_path(str(EXAMPLE))
    tuning = example["main"](tmp_path, trials=2, steps=4, hidden_size=8)
    assert tuning.out == tmp_path / "best"
    assert len(tuning.best.figures) == 2
    assert tuning.trials[0].value != tuning.trials[1].value
    assert jaxgen.load(tuning.out).config.training.seed in (0, 1)
    assert "all trials made; the best settings are" in capsys.readouterr().out


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
