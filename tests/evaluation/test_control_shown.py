"""Figures of control as tables and as a picture."""

from pathlib import Path
from typing import Any

import pytest

from jaxgen.evaluation.control import targets_met
from jaxgen.evaluation.control_plots import plot_control
from jaxgen.evaluation.control_tables import control_tables
from jaxgen.evaluation.pictures import can_draw


def figures(labels: tuple[str, ...], **other: Any) -> dict[str, Any]:
    """Made-up figures: control rises with the strength, and perplexity falls, then rises."""

    def row(accuracy: float, perplexity: float | None, **figures: Any) -> dict[str, Any]:
        shares = [accuracy + 0.02 * (n - (len(labels) - 1) / 2) for n in range(len(labels))]
        return {
            "texts": 1234,
            "accuracy": accuracy,
            "per_label": dict(zip(labels, shares, strict=True)),
            "perplexity": perplexity,
            **{"copied": 0.012, "longest_copy": 11, "mean_words": 17.25, "empty": 0},
            **{"distinct_1": 0.1, "distinct_2": 0.4375},
            **figures,
        }

    curve = {0: (0.16, 80.0), 1: (0.72, 75.5), 1.5: (0.85, 68.0), 2: (0.9, 61.0), 3: (0.94, 66.0)}
    rows = [{"strength": float(s), **row(*at, cut=2)} for s, at in curve.items()]
    found = {
        "text": "the test texts",
        "labels": list(labels),
        **{"samples": 1000, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 66, "seed": 0},
        "distinct_texts": 6000,
        "real": row(0.8, 71.0),
        "strengths": rows,
        **other,
    }
    for each in rows:
        each["targets"] = targets_met(found, each)
    return found


def test_tables() -> None:
    found = figures(("joy", "기쁨"), curve="control.png")
    found["real"]["per_label"]["기쁨"] = None
    found["strengths"][0]["perplexity"] = 59.0
    blocks = [block.splitlines() for block in control_tables(found).split("\n\n")]
    assert blocks[0] == [
        "text            the test texts (1,234 texts)",
        "samples         1,000 a label, temperature 1, top-p 0.9, at most 66 tokens",
        "distinct-n      of 6,000 texts each",
        "copied          texts with more than 8 words in a row out of a training text",
        "targets met at  strength 2",
        "curve           control.png",
    ]
    assert blocks[1][0].split("  ")[-1] == "cut"
    assert blocks[1][1].split() == [
        *("strength", "0", "0.1600", "59.00", "0.1000", "0.4375", "1.2%", "11", "17.2", "0", "2")
    ]
    assert blocks[1][-1].split() == [
        *("real", "text", "0.8000", "71.00", "0.1000", "0.4375", "1.2%", "11", "17.2", "0", "-")
    ]
    assert blocks[2] == [
        "accuracy      0      1    1.5      2      3  real text",
        "joy       0.150  0.710  0.840  0.890  0.930      0.790",
        "기쁨      0.170  0.730  0.860  0.910  0.950          -",
    ]
    found["real"]["accuracy"] = 1.0
    assert "targets met at  no strength" in control_tables(found)


@pytest.mark.skipif(not can_draw(), reason="needs matplotlib")
@pytest.mark.parametrize("count", [2, 12])
def test_a_picture(tmp_path: Path, count: int) -> None:
    from matplotlib.image import imread

    names = ("$x$ costs $", "기쁨", *(f"label {n}" for n in range(count - 2)))
    found = figures(names)
    found["strengths"][0]["perplexity"] = found["real"]["accuracy"] = None
    path = plot_control(tmp_path / "control.png", found)
    assert path == tmp_path / "control.png"
    assert imread(path)[..., :3].std() > 0.05  # something is drawn


@pytest.mark.skipif(not can_draw(), reason="needs matplotlib")
def test_a_picture_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "control.png").mkdir()
    with pytest.warns(UserWarning, match=r"could not draw .*control\.png"):
        assert plot_control(tmp_path / "control.png", figures(("a", "b"))) is None
