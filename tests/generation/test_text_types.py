"""The declared types of `TextModel`: against mypy, and against the options that there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxgen.generation.beam_text import BeamOptions
from jaxgen.generation.requests import Options, ReadEach, ReadOne, SampleOptions, SharedOptions
from jaxgen.generation.sampling import SamplingParams

ROOT = Path(__file__).parents[2]


def test_every_setting_of_the_sampler_is_an_option():
    read = {"label", "guidance", "after"}
    texts = {"max_new_tokens", "key", "stop", "allow_special"} | read
    assert set(Options.__annotations__) == texts | set(SamplingParams.__annotations__)
    assert set(ReadOne.__annotations__) == set(ReadEach.__annotations__) == read
    assert set(SampleOptions.__annotations__) == {*Options.__annotations__, "logprobs"}
    assert set(SharedOptions.__annotations__) < set(BeamOptions.__annotations__)


@pytest.mark.slow
@pytest.mark.peers("mypy")
def test_mypy_knows_what_each_call_gives():
    command = [sys.executable, "-m", "mypy", "--warn-unused-ignores", "--follow-imports=silent"]
    file = Path("tests", "generation", "typed_calls.py")
    run = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
