"""`jaxgen tune`: what it prints, and one clear error for each bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]

SPACE = "[optimizer]\nlearning_rate = {low = 1e-3, high = 1e-1, log = true}\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trials", 1), "`tune` needs a space of settings to try; name its file with --space"),
        (("--trials", 1, "--space", "no.toml"), "no space file at no.toml"),
        (("--space", "{space}"), "a study needs an end; give `minutes`, `trials` or both"),
        (("--space", "{space}", "--trials", 0), "`trials` must be at least 1, got 0"),
        (("--space", "{space}", "--minutes", -1), "`minutes` must be a number above 0, got -1.0"),
        (
            ("--space", "{space}", "--trials", 1, "--optimizer.learning-rate", 0.1),
            "space.toml tries values of `optimizer.learning_rate`, so --optimizer.learning-rate "
            "0.1 would have no effect; leave it out, or take the setting out of the space",
        ),
        (
            ("--space", "{space}", "--trials", 1, "--study", "nosuch://host/db"),
            "cannot use the study's database nosuch://host/db: ",
        ),
    ],
)
def test_bad_options(
    options: tuple[object, ...], message: str, config: Path, space: Path, tmp_path: Path, fail: Fail
) -> None:
    if "--study" in options:
        pytest.importorskip("optuna")
    words = [str(word).format(space=space) for word in options]
    assert message in fail("tune", config, "--out", tmp_path / "best", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "space.toml names no setting; give at least one"),
        ("[optimizer]\nlearning_rate = [", "space.toml is not TOML"),
        ("[optimizer]\nlerning_rate = [1]", "did you mean `optimizer.learning_rate`?"),
        ("[model]\nhidden_size = []", "`model.hidden_size` has no choices"),
        ("[model]\ndropout = {low = 0.5, high = 0.2}", "needs `low` below `high`, got 0.5 and 0.2"),
        (
            "[optimizer]\nlearning_rate = {low = 0.0, high = 0.2, log = true}",
            "needs a `low` above 0 with `log = true`, got 0.0",
        ),
    ],
)
def test_bad_spaces(text: str, message: str, config: Path, space: Path, fail: Fail) -> None:
    space.write_text(text)
    assert message in fail("tune", config, "--space", space, "--trials", 1)


def test_without_optuna(
    config: Path, space: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxgen.tuning.tune.find_spec", lambda name: None)
    message = fail("tune", config, "--space", space, "--trials", 1)
    assert message == "`tune` needs Optuna; install it with: pip install 'jaxgen[tune]'"


def test_a_study(config: Path, space: Path, tmp_path: Path, say: Say, fail: Fail) -> None:
    pytest.importorskip("optuna")
    command = ("tune", "--space", space, config, "--out", tmp_path / "best")
    code, out, err = say(*command, "--trials", 1)
    assert code == 0, err
    head, first, counts = out.splitlines()
    assert head.split()[:3] == ["trial", "bpc", "ended"]
    assert first.split()[0] == "0"
    assert counts == "1 trials: 1 finished"
    assert f"the best run, of trial 0, is in {tmp_path / 'best'}" in err
    code, out, err = say(*command, "--trials", 1, "--json")
    facts = json.loads(out)
    assert facts["settings"] == {"optimizer.learning_rate": 2e-3}
    assert facts["best"] == facts["trials"][0]
    assert facts["out"] == str(tmp_path / "best")
    message = fail(*command, "--trials", 2, "--model.hidden-size", 9)
    assert "is of another experiment: its `model.hidden_size` is 8, got 9" in message


def test_help_names_the_options(say: Say) -> None:
    code, out, _ = say("tune", "--help")
    assert code == 0
    for option in ("--space", "--minutes", "--trials", "--study", "--optimizer.learning-rate"):
        assert option in out
