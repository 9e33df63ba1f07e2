"""Exports: written and read back exactly, pushed without a network, each damage named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from jaxgen.config import LanguageModelConfig, LanguageModelExperiment
from jaxgen.errors import UserError
from jaxgen.exports import is_export, push_to_hub, read_export, write_export

PARAMS = {
    "lstm": {"layer_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T}},
    "output_bias": np.array([0.5, -1.5], np.float32),
}
EXPERIMENT = LanguageModelExperiment(model=LanguageModelConfig(hidden_size=7, dropout=0.1))


class FakeTokenizer:
    vocab_size = 2

    def save(self, path: str | Path) -> None:
        Path(path).write_text("{}")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    write_export(tmp_path / "model", PARAMS, EXPERIMENT, FakeTokenizer())
    return tmp_path / "model"


def test_round_trip(export: Path) -> None:
    assert is_export(export)
    assert {path.name for path in export.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json")
    }
    experiment, params = read_export(export)
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


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the export"):
        write_export(tmp_path / "file" / "model", PARAMS, EXPERIMENT, FakeTokenizer())


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
