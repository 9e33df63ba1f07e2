"""What a space may say, and what it must not."""

from pathlib import Path
from typing import Any

import pytest

from jaxgen.config import ClassifierExperiment, LanguageModelExperiment
from jaxgen.config.toml import read_toml
from jaxgen.errors import UserError
from jaxgen.tuning.space import Choices, Range, base_values, read_space, with_settings

SPACES = sorted((Path(__file__).parents[2] / "configs" / "spaces").glob("*.toml"))
LM = LanguageModelExperiment()
TOML = """
[optimizer]
learning_rate = {low = 1e-4, high = 1e-1, log = true}
clip_norm = ["none", 1.0]

[model]
hidden_size = [32, 64]
num_layers = {low = 1, high = 3}
dropout = {low = 0, high = 0.55, step = 0.1}
"""


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(TOML)
    assert read_space(path, LM) == {
        "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
        "optimizer.clip_norm": Choices(("none", 1.0)),
        "model.hidden_size": Choices((32, 64)),
        "model.num_layers": Range(1, 3, integer=True),
        "model.dropout": Range(0, 0.5, step=0.1),  # the last value that the steps reach
    }


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_spaces_are_valid_and_say_how_to_use_them(path: Path) -> None:
    config = path.parents[1] / path.name
    assert read_space(path, read_toml(config))
    command = f"jaxgen tune configs/{path.name} --space configs/spaces/{path.name} "
    assert command in path.read_text()


def test_lists_as_choices() -> None:
    space = read_space({"model": {"pooling": [["mean"], ["mean", "max"]]}}, ClassifierExperiment())
    assert space == {"model.pooling": Choices((["mean"], ["mean", "max"]))}
    tried = with_settings(ClassifierExperiment(), {"model.pooling": ["mean", "max"]})
    assert tried.model.pooling == ("mean", "max")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "the space names no setting; give at least one"),
        ({"model": {}}, "the space names no setting"),
        (
            {"model": 3},
            "the space: `model` must be a table of settings, such as [optimizer]",
        ),
        ({"task": {"name": ["classifier"]}}, "`task` must be a table of settings"),
        (
            {"optimizer": {"lerning_rate": [0.1]}},
            "the space: unknown key `optimizer.lerning_rate`; did you mean "
            "`optimizer.learning_rate`?",
        ),
        ({"optimiser": {"name": ["adam"]}}, "unknown key `optimiser`; did you mean `optimizer`?"),
        ({"model": {"pooling": [["mean"]]}}, "`model.pooling` is a setting of task classifier"),
        ({"model": {"hidden_size": []}}, "`model.hidden_size` has no choices; give some"),
        (
            {"model": {"hidden_size": 64}},
            "`model.hidden_size` must be a list of choices or",
        ),
        ({"model": {"hidden_size": [8, 8]}}, "`model.hidden_size` has the choice 8 twice"),
        ({"model": {"hidden_size": [8, 0]}}, "`model.hidden_size` must be at least 1, got 0"),
        ({"model": {"hidden_size": [8.5]}}, "`model.hidden_size` must be an integer, got 8.5"),
        ({"optimizer": {"name": ["adan"]}}, "`optimizer.name` must be 'adam', "),
        ({"model": {"dropout": {"low": 0, "high": 1}}}, "`model.dropout` must be less than 1"),
        ({"model": {"dropout": {"low": 0.5, "high": 0.5}}}, "needs `low` below `high`, got 0.5"),
        ({"model": {"dropout": {"low": 0.5, "high": 0.1}}}, "needs `low` below `high`, got 0.5"),
        ({"model": {"dropout": {"low": 0.1}}}, "needs a finite number as `high`, got None"),
        ({"model": {"dropout": {"low": "a", "high": 1}}}, "a finite number as `low`, got 'a'"),
        ({"model": {"dropout": {"lo": 0, "high": 0.5}}}, "got `lo`, did you mean `low`?"),
        (
            {"optimizer": {"learning_rate": {"low": 0, "high": 1, "log": True}}},
            "needs a `low` above 0 with `log = true`, got 0; raise it, or leave out `log`",
        ),
        (
            {"optimizer": {"learning_rate": {"low": 1, "high": 2, "log": True, "step": 1}}},
            "takes `step` or `log = true`, not both",
        ),
        ({"model": {"dropout": {"low": 0, "high": 0.5, "step": 1}}}, "needs a `step` above 0 and"),
        ({"model": {"num_layers": {"low": 1, "high": 3, "step": 0.5}}}, "an integer as `step`"),
        ({"model": {"num_layers": {"low": 1.5, "high": 3}}}, "must be an integer, got 1.5"),
        ({"model": {"cell": {"low": 1, "high": 3}}}, "is no number, so it has no range"),
        ({"model": {"dropout": {"low": 0, "high": 0.5, "log": 1}}}, "true or false as `log`"),
    ],
)
def test_bad_spaces(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_space(space, LM)
    assert message in str(error.value)


def test_rules_between_settings_are_left_to_the_trials() -> None:
    space = read_space({"model": {"tied": [True, False], "embedding_size": [0, 64]}}, LM)
    assert set(space) == {"model.tied", "model.embedding_size"}
    assert with_settings(LM, {"model.tied": True, "model.embedding_size": 64}).model.tied
    with pytest.raises(UserError, match=r"^with model.tied = True, model.embedding_size = 0: "):
        with_settings(LM, {"model.tied": True, "model.embedding_size": 0})


def test_the_first_trial_is_the_experiment_where_the_space_holds_it() -> None:
    space = read_space(
        {
            "optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
            "model": {"hidden_size": [32, 64], "dropout": {"low": 0.0, "high": 0.5, "step": 0.1}},
        },
        LM,
    )
    experiment = with_settings(LM, {"model.hidden_size": 16, "model.dropout": 0.3})
    assert base_values(space, experiment) == {"optimizer.learning_rate": 2e-3, "model.dropout": 0.3}
