"""Attention as a picture."""

from pathlib import Path

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation import attention_plots
from jaxgen.evaluation.attention_plots import plot_attention
from jaxgen.evaluation.pictures import can_draw

drawn = pytest.mark.skipif(not can_draw(), reason="needs matplotlib")


@drawn
def test_the_source_goes_right_and_the_target_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = attention_plots.save_figure
    monkeypatch.setattr(
        attention_plots, "save_figure", lambda *args: [figures.append(args[1]), save(*args)][1]
    )
    weights = np.array([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]], np.float32)
    source, target = ["ein", "$x$", "기쁨", "\n"], ["a b", "", "joy"]
    path = plot_attention(tmp_path / "attention.png", source, target, weights)
    assert path == tmp_path / "attention.png"
    axes = figures[0].axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), weights)
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ein", "$x$", "기쁨", "␣"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a␣b", "∅", "joy"]
    assert axes.yaxis_inverted()


@drawn
def test_many_tokens_have_room(tmp_path: Path) -> None:
    from matplotlib.image import imread

    weights = np.eye(120, 90)
    path = plot_attention(tmp_path / "a.png", ["word"] * 90, ["word"] * 120, weights)
    assert path is not None
    assert max(imread(path).shape) <= 16 * 120


@drawn
def test_a_picture_that_cannot_be_written_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.warns(UserWarning, match=r"could not draw .*a\.png"):
        assert plot_attention(tmp_path / "a.png", ["a"], ["b"], np.ones((1, 1))) is None


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 0)])
def test_bad_weights(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tokens = ["a"] * shape[0]
    with pytest.raises(UserError, match=r"`weights` must be \[T, S\]"):
        plot_attention(tmp_path / "a.png", tokens[:2], tokens, np.ones(shape))


def test_matplotlib_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_plots, "can_draw", lambda: False)
    with pytest.raises(UserError, match=r"not installed; install jaxgen\[plot\]"):
        plot_attention(tmp_path / "a.png", ["a"], ["b"], np.ones((1, 1)))
