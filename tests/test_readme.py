"""The README's Python runs as it stands, and its layout names what is there."""

import re
from pathlib import Path

import pytest
from generation.text_models import make_labelled_model
from tiny_classifier import tiny_classifier
from tiny_run import write_config

import jaxgen

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST, CLASSIFY, STEER, SECOND = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for a corpus that takes a second instead of half a minute."""
    config, train = write_config(tmp_path), jaxgen.train
    asked = []

    def train_tiny(experiment: str, out: str) -> object:
        asked.append(experiment)
        return train(config, out=out)

    monkeypatch.setattr(jaxgen, "train", train_tiny)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="outside the vocabulary"):
        exec(FIRST, {})
    assert [(ROOT / path).is_file() for path in asked] == [True]


def test_classifying(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, with a tiny model in the place of the trained one."""
    monkeypatch.setattr(jaxgen, "load", lambda run: tiny_classifier())
    exec(CLASSIFY, {"jaxgen": jaxgen})


def test_following_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, with a tiny model in the place of the trained one."""
    monkeypatch.setattr(jaxgen, "load", lambda run: make_labelled_model())
    with pytest.warns(UserWarning, match="outside the vocabulary"):
        exec(STEER, {"jaxgen": jaxgen})


def test_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SECOND, {})
    assert capsys.readouterr().out


def test_the_layout_is_true() -> None:
    table = README.partition("## Project layout")[2]
    names = [
        re.findall(r"`([\w./]+)`", row.split("|")[1]) for row in table.splitlines() if "|" in row
    ]
    named = {name.removeprefix("jaxgen/") for group in names for name in group}
    there = {
        path.name for path in (ROOT / "jaxgen").iterdir() if not path.name.startswith(("_", "."))
    }
    there -= {"py.typed", "errors.py", "types.py"}
    missing = {name for name in there if name not in named and f"{name}/" not in named}
    assert not missing
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "jaxgen" / name).exists(), name
