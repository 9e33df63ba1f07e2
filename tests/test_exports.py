"""Exports: written and read back exactly, nothing replaced unasked, each damage named."""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from jaxgen.config import LanguageModelConfig, LanguageModelExperiment
from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.exports import check_export, push_to_hub, read_export, write_export
from jaxgen.training.runs import Run
from jaxgen.training.seed_runs import SeedRuns
from jaxgen.training.starts import check_start

PARAMS = {
    "lstm": {"layer_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T}},
    "output_bias": np.array([0.5, -1.5], np.float32),
}
EXPERIMENT = LanguageModelExperiment(model=LanguageModelConfig(hidden_size=7, dropout=0.1))
FILES = {"tokenizer.json": "{}"}
CONFIG = {
    "model_type": "jaxgen_test",
    "experiment": EXPERIMENT.model_dump(mode="json", exclude_defaults=True),
}
CARD = "# {name}: {parameters} parameters\n"
FIXTURE = Path(__file__).parent / "fixtures" / "format_1"


def write(directory: Path, scale: float = 1.0, **options: Any) -> Path:
    params = {"lstm": PARAMS["lstm"], "output_bias": PARAMS["output_bias"] * np.float32(scale)}
    write_export(directory, params, FILES, CONFIG, CARD, **options)
    return directory


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


def test_round_trip(export: Path) -> None:
    assert kind_of(export) == "export"
    assert (export / "README.md").read_text() == "# model: 8 parameters\n"
    assert json.loads((export / "config.json").read_text()) == {
        "format": 1,
        **CONFIG,
        "files": ["tokenizer.json"],
    }
    assert {path.name for path in export.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json")
    }
    experiment, _, params = read_export(export)
    assert experiment == EXPERIMENT
    kernel = params["lstm"]["layer_0"]["kernel"]
    np.testing.assert_array_equal(kernel, PARAMS["lstm"]["layer_0"]["kernel"])
    np.testing.assert_array_equal(params["output_bias"], PARAMS["output_bias"])


def test_other_programs_read_the_weights(export: Path) -> None:
    with safe_open(export / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == {"lstm.layer_0.kernel", "output_bias"}


def test_missing_and_damaged(export: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an export"):
        read_export(tmp_path)
    weights = export / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        read_export(export)
    weights.unlink()
    with pytest.raises(UserError, match=r"no model.safetensors"):
        read_export(export)
    (export / "config.json").write_text('{"architectures": []}')
    with pytest.raises(UserError, match=r"is not the config.json of a jaxgen export"):
        read_export(export)


def test_newer_format(export: Path) -> None:
    path = export / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(UserError, match="format 99, newer than"):
        read_export(export)


def test_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, so .*model cannot be a directory"):
        write(tmp_path / "file" / "model")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot write the export .*: No space left on device"):
        write(tmp_path / "model")


def test_an_export_of_the_first_format() -> None:
    experiment, _, params = read_export(FIXTURE / "export")
    assert kind_of(FIXTURE / "export") == "export"
    assert experiment.model.hidden_size == 8
    assert params["lstm"]["layer_0"]["recurrent_kernel"].shape == (8, 32)
    assert kind_of(FIXTURE / "run") == "run"
    assert kind_of(FIXTURE / "seeds") == "seeds"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "\xff", '{"format": 1, "experiment": []}']
)
def test_damaged_configuration(export: Path, text: str) -> None:
    (export / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"is not the config\.json of a jaxgen export"):
        read_export(export)


def test_an_export_is_replaced_only_when_told_to(export: Path) -> None:
    (export / "notes.md").write_text("mine")
    with pytest.raises(UserError, match="already holds an export; replace it with --force"):
        write(export, 2.0)
    np.testing.assert_array_equal(read_export(export)[2]["output_bias"], PARAMS["output_bias"])
    write(export, 2.0, overwrite=True)
    np.testing.assert_array_equal(read_export(export)[2]["output_bias"], [1.0, -3.0])
    assert (export / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "notes.md"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_files_are_kept(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text('{"architectures": []}')
    with pytest.raises(UserError, match=f"is not empty and not an export: it holds {name};"):
        write(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"architectures": []}'


def test_no_export_into_a_run(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {})
    shutil.copytree(FIXTURE / "run", tmp_path / "trained")
    SeedRuns.create(tmp_path / "seeds", (0,), 1, lambda seed: {})
    for name, message in (
        ("run", "run is where a training began; choose another directory"),
        ("trained", "trained holds a run; choose another"),
        ("trained/export", "export lies inside the run .*trained; choose"),
        ("trained/checkpoints/x", "x lies inside the run .*trained; choose"),
        ("seeds", "seeds is where a training began"),
        ("seeds/seed-0", "seed-0 is where a training began"),
    ):
        for overwrite in (False, True):
            with pytest.raises(UserError, match=message):
                write(tmp_path / name, overwrite=overwrite)


def test_an_export_in_a_run_is_no_longer_the_run(tmp_path: Path) -> None:
    """What an earlier version left: the run is the run, and the user is told."""
    shutil.copytree(FIXTURE / "run", tmp_path / "both")
    for path in (FIXTURE / "export").iterdir():
        shutil.copy(path, tmp_path / "both")
    assert kind_of(tmp_path / "both") == "run"
    with pytest.warns(UserWarning, match="holds a run and an export; the run is read"):
        Run.open(tmp_path / "both")


def test_an_export_that_is_killed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each file gets its name, new or in the place of another export."""

    class Killed(BaseException):
        pass

    replace = os.replace
    for number, old in itertools.product(range(5), (False, True)):
        out, left = tmp_path / f"{number}{old}", [number]
        if old:
            write(out)

        def dying(*names: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            replace(*names)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", dying)
            write(out, 2.0, overwrite=old)
        if number:
            with pytest.raises(UserError, match="was cut off; export the run again"):
                read_export(out)
            (out / "README.md").write_text("mine")
            with pytest.raises(UserError, match=r"README\.md was not written by jaxgen"):
                write(out, 2.0)
            (out / "README.md").unlink()
        write(out, 2.0, overwrite=old and not number)
        np.testing.assert_array_equal(read_export(out)[2]["output_bias"], [1.0, -3.0])
    with pytest.raises(UserError, match="holds an export"):
        check_start(out)
    assert check_export(tmp_path / "new") == {}


def test_push(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self: object, repo: str, **options: Any) -> None:
        calls.append((repo, options))

    def upload_folder(self: object, **options: Any) -> str:
        calls.append(("upload", options))
        return "hub address"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    assert push_to_hub(export, "someone/model") == "hub address"
    assert calls == [
        ("someone/model", {"exist_ok": True, "private": True}),
        ("upload", {"repo_id": "someone/model", "folder_path": export}),
    ]


def test_push_without_network(export: Path) -> None:
    # The tests run with the hub's offline switch on.
    with pytest.raises(UserError, match=r"could not push .* the export itself is complete"):
        push_to_hub(export, "someone/model")
