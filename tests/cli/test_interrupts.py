"""Ctrl-C before anything is trained: no traceback, exit code 130, wherever it comes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "fixtures" / "format_1" / "run"

# Presses Ctrl-C when a module is about to be imported, or once its import ended.
CHILD = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

# A shell's background jobs ignore Ctrl-C, and so do their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Press())
from jaxgen.__main__ import main
sys.argv[1:] = {arguments!r}
sys.exit(main())
"""
EARLY = ["jaxgen.cli", "tyro", "pydantic_core"]
LATE = [
    *("argparse", "rich", "pydantic", "numpy", "numpy.random", "jax", "jaxlib", "ml_dtypes"),
    *("jax.numpy", "flax", "optax", "orbax.checkpoint", "tokenizers", "tensorstore"),
]


@pytest.mark.parametrize(
    "module", [*EARLY, *(pytest.param(name, marks=pytest.mark.slow) for name in LATE)]
)
def test_ctrl_c_during_an_import(module: str) -> None:
    code = CHILD.format(module=module, arguments=["generate", str(RUN), "--max-new-tokens", "2"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
