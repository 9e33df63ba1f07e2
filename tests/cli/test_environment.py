"""`jaxgen info --environment`: what is here, and which versions are known to be bad."""

import json
import os

import jax
import numpy as np
import pytest

from jaxgen.cli import ERROR, environment, main
from jaxgen.cli.environment import known_faults

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize(
    ("version", "named"),
    [
        *(("0.8.0", False), ("0.9.0", False), ("0.9.1", True), ("0.9.2", True), ("0.10.1", True)),
        *(("0.10.2", True), ("0.11.0", False), ("0.12.0.1", False)),
    ],
)
def test_versions_known_to_be_bad(version: str, named: bool) -> None:
    found = known_faults({"jaxlib": version}, "cpu", "--xla_a=1")
    assert [f"jaxlib {version} on a CPU" in fault for fault in found] == [True] * named
    assert not known_faults({"jaxlib": version}, "cuda", "")
    assert not known_faults({"jaxlib": version}, "cpu", f"--xla_a=1 {FLAG}")


def test_versions_devices_and_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(environment, "_version", {"jaxlib": "0.10.2"}.get)
    assert main(["info", "--environment", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["jaxlib"] == "0.10.2"
    assert facts["platform"] == "cpu"
    assert facts["devices"] == jax.device_count()
    assert FLAG in facts["known faults"][0]
    monkeypatch.setattr(environment, "_version", {"jaxlib": "0.11.0"}.get)
    assert main(["info", "--environment"]) == 0
    assert "known faults          none" in capsys.readouterr().out


def test_no_run_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["runs/x"], ["--backend"], ["--hidden-size", "8"]):
        assert main(["info", "--environment", *arguments]) == ERROR
        assert "leave RUN, --backend and shapes out" in capsys.readouterr().err


def test_a_version_that_computes_wrongly_is_named() -> None:
    """The fault itself, where it is: `vmap` of a 3 x 3 product and a maximum."""
    vectors = (np.arange(40_001 * 3).reshape(-1, 3) % 97).astype(np.float32)
    matrix = np.array([[1, 0, -1], [0, 2, 0], [1, 1, 1]], np.float32)
    found = jax.jit(jax.vmap(lambda row: (matrix @ row).max()))(vectors)
    right = np.array_equal(found, (vectors @ matrix.T).max(axis=1))
    flags = os.environ.get("XLA_FLAGS", "")
    versions = {"jaxlib": environment._version("jaxlib")}
    assert right or known_faults(versions, "cpu", flags)
