"""What the pictures of figures share: a canvas without a display, fonts, and whole files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.files import reason, replacing

BLUE, PALE, RED, GREY = "#2f5d8c", "#9db7d5", "#c0392b", "#8a8f98"
# Fonts with Korean, Japanese and Chinese letters; of these, those that are there.
_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS"),
)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_picture(path: Path, name: str) -> None:
    """UserError where a picture could not be drawn there, so that nobody waits for it in vain.

    Args:
        path: where to.
        name: of the option that says so, as the user writes it.
    """
    if path.suffix != ".png" or path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"{name} must be a file that ends in .png, in a directory that exists, got {path}"
        )
    if not can_draw():
        raise UserError(
            f"{name} needs matplotlib, which is not installed; install jaxgen[plot], or leave it "
            "out"
        )


@contextmanager
def plain_names() -> Iterator[None]:
    """While names of labels are drawn: letters of any script, and no name is a formula."""
    from matplotlib import font_manager, rc_context

    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(font for font in _FONTS if font in installed)]
    # A label is no formula, even with dollar signs in it.
    with rc_context({"font.family": fonts, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Any) -> Path | None:
    """Write a figure as PNG; the path, or None with a warning where it cannot be written."""
    try:
        with replacing(path) as file:
            figure.savefig(file, format="png")
    except OSError as error:  # the figures themselves are printed
        warnings.warn(f"could not draw {path}: {reason(error)}", stacklevel=2)
        return None
    return path
