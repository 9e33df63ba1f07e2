"""The public names: importable one import deep, documented, and loaded only when asked for."""

import importlib
import inspect
import subprocess
import sys

import pytest

import jaxgen
import jaxgen.nn


@pytest.mark.parametrize("name", jaxgen.__all__)
def test_each_name_is_there_listed_and_documented(name):
    value = getattr(jaxgen, name)
    assert name in dir(jaxgen)
    if name != "__version__":
        assert inspect.getdoc(value), f"jaxgen.{name} has no docstring"


def test_research_code_finds_its_names_one_import_deep():
    for module, name in (
        ("generation.beam", "beam_search"),
        ("generation.generate", "generate"),
        ("generation.score", "score"),
        ("training.step", "make_train_step"),
    ):
        assert getattr(jaxgen, name) is getattr(importlib.import_module(f"jaxgen.{module}"), name)
    for name in jaxgen.nn.__all__:
        assert inspect.getdoc(getattr(jaxgen.nn, name)), f"jaxgen.nn.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'transformer'"):
        jaxgen.transformer  # noqa: B018


def test_modules_are_reached_from_the_package_alone():
    """In a fresh interpreter, where no test has imported `jaxgen.nn` before."""
    code = (
        "import jaxgen, sys; assert 'flax' not in sys.modules;"
        "print(jaxgen.nn.LSTM.__name__, jaxgen.nn.LSTMCell.__name__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["LSTM", "LSTMCell"]
