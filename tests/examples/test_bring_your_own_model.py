"""The example of a model that jaxgen does not know: it learns, and writes what it should."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "bring_your_own_model.py"


@pytest.mark.slow
def test_a_model_of_ones_own_is_trained_and_writes(capsys):
    example = runpy.run_path(str(EXAMPLE))
    sizes = {"hidden_size": 8, "batch_size": 4, "window": 8}
    texts = example["main"](steps=100, max_new_tokens=12, **sizes)
    shown = capsys.readouterr().out
    loss = re.search(r"step 100: ([\d.]+) nats per character", shown)
    assert loss
    assert float(loss[1]) < 4.0  # from the logarithm of some 80 characters, 4.4
    assert [len(text) for text in texts] == [len("The ") + 12, len("The ") + 3]
    assert all(text in shown for text in texts)


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 100
