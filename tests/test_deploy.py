"""The files to submit: shells read them, and their fields are those that the schedulers know.

No scheduler is here to run them.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TRAIN_JOB = ROOT / "deploy" / "kubeflow-trainjob.yaml"
SBATCH = ROOT / "deploy" / "slurm.sbatch"


def train_job() -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(TRAIN_JOB.read_text())


def shell(script: str, tmp_path: Path, *, run: bool = False, **variables: str) -> Any:
    """Read a script, or run it with commands that print what they are called with."""
    for name in ("jaxgen", "srun", "scontrol"):
        command = tmp_path / name
        command.write_text(f'#!/bin/bash\necho {name} "$@"\nexit "${{EXIT_{name}:-0}}"\n')
        command.chmod(0o755)
    options = [] if run else ["-n"]
    return subprocess.run(
        ["bash", *options, "-c", script, "script", "a.toml", variables.get("OUT", "")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("begun", [False, True])
def test_slurm(begun: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    if begun:
        (out / "run.json").touch()
    script = SBATCH.read_text()
    assert shell(script, tmp_path).returncode == 0
    done = shell(script, tmp_path, run=True, OUT=str(out), EXIT_srun="130", SLURM_JOB_ID="7")
    what = f"--resume --out {out}" if begun else f"a.toml --out {out}"
    train = f"jaxgen train {what} --distributed.coordinator auto"
    assert done.stdout.splitlines() == [
        f"srun --kill-on-bad-exit=1 {train}",
        "scontrol requeue 7",
    ]
    assert done.returncode == 130
    failed = shell(script, tmp_path, run=True, OUT=str(out), EXIT_srun="2", SLURM_JOB_ID="7")
    assert (failed.returncode, "scontrol" in failed.stdout) == (2, False)


@pytest.mark.parametrize("begun", [False, True])
def test_kubeflow(begun: bool, tmp_path: Path) -> None:
    trainer = train_job()["spec"]["trainer"]
    bash, flag, script = trainer["command"]
    assert (bash, flag) == ("bash", "-c")
    variables = {variable["name"]: variable["value"] for variable in trainer["env"]}
    assert (ROOT / variables["CONFIG"]).is_file()
    variables["OUT"] = str(tmp_path)
    if begun:
        (tmp_path / "run.json").touch()
    places = {"COORDINATOR_ADDRESS": "host:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    variables |= {f"JAX_{name}": value for name, value in places.items()}
    done = shell(script, tmp_path, run=True, **variables)
    first = "--resume" if begun else variables["CONFIG"]
    assert done.stdout.split() == [
        *("jaxgen", "train", first, "--out", str(tmp_path)),
        *("--distributed.coordinator", "host:1"),
        *("--distributed.num-processes", "2", "--distributed.process-id", "1"),
    ]


@pytest.mark.peers("kubeflow_trainer_api")
def test_kubeflow_knows_every_field() -> None:
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    written = train_job()
    read = json.loads(TrainerV1alpha1TrainJob.from_dict(written).to_json())
    assert kept(written, read) == written


def kept(written: Any, read: Any) -> Any:
    """What is left of a value after it was read into types that drop unknown fields."""
    if isinstance(written, dict):
        return {name: kept(own, read[name]) for name, own in written.items() if name in read}
    if isinstance(written, list):
        return [kept(*pair) for pair in zip(written, read, strict=True)]
    return read
