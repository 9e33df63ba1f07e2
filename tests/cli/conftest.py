"""A small trained run, and ways to call the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import write_config

from jaxgen.cli import main

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory; do not write into it."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder)
    assert main(["train", str(config), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that trains in a second."""
    return write_config(tmp_path)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; its exit code, standard output and standard error."""

    def say(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # tyro leaves by it
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return say


@pytest.fixture
def fail(say: Say) -> Callable[..., str]:
    """Run a command that must fail; the line that says why."""

    def fail(*arguments: object) -> str:
        code, out, err = say(*arguments)
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        line = err.strip().splitlines()[-1]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return fail
