"""The example of a text GAN: it writes what is more like real sentences than at first."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gan.py"


@pytest.mark.slow
def test_it_learns_to_write(capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    texts, bleu = main(epochs=3, adversarial_steps=3, size=32, batch_size=64)
    assert len(texts) == 64
    assert bleu > 0.05
    assert "discriminator_loss" in capsys.readouterr().out


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
