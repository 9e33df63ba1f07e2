"""Configuration files: what is written is read back, and each mistake has its own sentence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.config import (
    EXPERIMENTS,
    Experiment,
    LanguageModelConfig,
    LanguageModelData,
    LanguageModelExperiment,
    OptimizerConfig,
    SamplesConfig,
)
from jaxgen.config.toml import parse_toml, read_toml, to_toml
from jaxgen.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@given(
    prompt=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    files=st.lists(st.sampled_from(["a.txt", "b c.txt", 'd"e\\.txt', "한글.txt"])),
    rate=st.floats(0, 0.99),
    temperatures=st.lists(st.floats(0, 1e6)),
    clip_norm=st.none() | st.floats(1e-3, 1e3),
)
def test_written_is_read_back(
    prompt: str | None,
    files: list[str],
    rate: float,
    temperatures: list[float],
    clip_norm: float | None,
) -> None:
    experiment = LanguageModelExperiment(
        data=LanguageModelData(files=tuple(map(Path, files))),
        model=LanguageModelConfig(dropout=rate, tied=True, embedding_size=3),
        optimizer=OptimizerConfig(clip_norm=clip_norm),
        samples=SamplesConfig(prompt=prompt, temperatures=tuple(temperatures)),
    )
    assert parse_toml(to_toml(experiment)) == experiment


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_defaults_of_every_task_are_read_back(name: str) -> None:
    assert parse_toml(to_toml(EXPERIMENTS[name]())) == EXPERIMENTS[name]()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_are_valid_and_say_how_to_run_them(path: Path) -> None:
    assert isinstance(read_toml(path), Experiment)
    head = path.read_text().partition("\n\n")[0]
    for word in ("jaxgen train", "Device:", "Time:", "Expect:"):
        assert word in head, f"the head of {path.name} does not say {word!r}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model]\nhidden_sze = 3",
            "x.toml: unknown key `model.hidden_sze`; did you mean `model.hidden_size`?",
        ),
        ("[modle]\nhidden_size = 3", "x.toml: unknown key `modle`; did you mean `model`?"),
        (
            "[zzz]\na = 3",
            "x.toml: unknown key `zzz`; there are data, model, optimizer, training, tokenizer,"
            " samples",
        ),
        (
            '[model]\nhidden_size = "128"',
            "x.toml: `model.hidden_size` must be an integer, got '128' (Units of each LSTM layer)",
        ),
        (
            "[model]\nhidden_size = 0",
            "x.toml: `model.hidden_size` must be at least 1, got 0 (Units of each LSTM layer)",
        ),
        (
            "[model]\ndropout = nan",
            "x.toml: `model.dropout` must be a finite number, got nan"
            " (Dropout on the output of the last layer)",
        ),
        (
            '[model]\ndtype = "float16"',
            "x.toml: `model.dtype` must be 'float32' or 'bfloat16', got 'float16' "
            "(Compute type; parameters and the cell state stay float32. On a CPU bfloat16 trains "
            "slower)",
        ),
        (
            "[training]\ndevices = 0",
            "x.toml: `training.devices` must be 'auto' or at least 1, got 0 (Devices of data "
            "parallelism; auto measures on a CPU with several cores)",
        ),
        (
            "[model]\ntied = true",
            "x.toml: `model.tied` shares the embedding with the output layer, so it needs "
            "`model.embedding_size` of at least 1",
        ),
        ("model = 3", "x.toml: `model` must be a table of settings, [model], got 3"),
        ("model", "x.toml is not TOML: Expected '=' after a key"),
        (
            'task = "poetry"',
            f"x.toml: `task` must be one of {', '.join(EXPERIMENTS)}, got 'poetry'; choose one",
        ),
        (
            "task = [1]",
            f"x.toml: `task` must be one of {', '.join(EXPERIMENTS)}, got [1]",
        ),
        (
            "[training]\nseed = 99999999999999999999",
            "x.toml: `training.seed` must be less than 4294967296, got 99999999999999999999",
        ),
        (
            "[model]\nhidden_size = 1\n[model]\ncell = 1",
            "x.toml is not TOML: Cannot declare ('model',) twice",
        ),
    ],
)
def test_each_mistake_has_its_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_toml(text, source="x.toml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_two_mistakes_make_two_lines() -> None:
    with pytest.raises(UserError) as error:
        parse_toml("[model]\nhidden_size = 0\n[training]\nbatch_size = 0")
    assert len(str(error.value).splitlines()) == 2


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration file at"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_toml(tmp_path)
    if Path("/dev/zero").exists():
        with pytest.raises(UserError, match="/dev/zero is a device"):
            read_toml("/dev/zero")
    (tmp_path / "broken.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_toml(tmp_path / "broken.toml")


def test_a_byte_order_mark_of_an_editor_is_no_statement(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes("[model]\nhidden_size = 7\n".encode("utf-8-sig"))
    assert read_toml(path).model.hidden_size == 7
