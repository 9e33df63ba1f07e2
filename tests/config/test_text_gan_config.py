"""Settings of text GANs that do not fit together: each with its one clear error."""

from typing import Any

import pytest

from jaxgen.config import TextGanExperiment
from jaxgen.config.toml import parse_toml, to_toml, validate
from jaxgen.errors import UserError


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"adversarial": {"estimator": "gumbel", "rollouts": 16}},
            "`adversarial.rollouts` is for `adversarial.estimator` rollouts, got 16 with gumbel; "
            "leave it out, or choose another estimator",
        ),
        (
            {"adversarial": {"estimator": "dense", "temperature_end": 0.5}},
            "`adversarial.temperature_end` is for `adversarial.estimator` gumbel, got 0.5",
        ),
        (
            {"adversarial": {"estimator": "gumbel", "baseline_decay": 0.1}},
            "`adversarial.baseline_decay` is for `adversarial.estimator` rollouts and dense",
        ),
        (
            {"adversarial": {"estimator": "rollouts", "loss": "relativistic"}},
            '`adversarial.loss` = "relativistic" compares a text with a real one',
        ),
        (
            {"adversarial": {"estimator": "dense"}, "model": {"discriminator": "cnn"}},
            '`adversarial.estimator` = "dense" needs a score after each token, and '
            "`model.discriminator` cnn has one a text",
        ),
        (
            {"model": {"discriminator_pooling": ["mean"]}},
            '`adversarial.estimator` = "dense" needs a score after each token',
        ),
        (
            {"model": {"discriminator": "cnn", "layer_norm": True}},
            '`model.layer_norm` is for `model.discriminator` = "lstm", got cnn',
        ),
        (
            {"model": {"filter_widths": [1, 2], "filters": [100]}},
            "`model.filter_widths` and `model.filters` must be as many, got 2 and 1",
        ),
        (
            {"adversarial": {"from_scratch": True, "steps": 0}},
            "`adversarial.from_scratch` begins the adversarial training",
        ),
        ({"training": {"epochs": 0}}, "`training.epochs` must be"),
        ({"training": {"averaging": "ema"}}, "`training.averaging` must be none for text GANs"),
        ({"training": {"accumulate_steps": 2}}, "`training.accumulate_steps` must be 1"),
        (
            {"data": {"oracle": "target.npz"}},
            '`data.oracle` is for `data.embedded` = "oracle", got target.npz; set that too',
        ),
        (
            {"data": {"embedded": "oracle", "files": ["lines.txt"]}},
            '`data.embedded` = "oracle" takes the place of `data.dataset` and `data.files`',
        ),
        (
            {"data": {"embedded": "oracle", "label_column": "label"}},
            "`data.label_column` is for texts with labels, and an oracle's have none",
        ),
    ],
)
def test_settings_that_do_not_fit_together(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate({"task": "text_gan", **sections}, "x.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_each_estimator_are_kept() -> None:
    for estimator, own in {
        "gumbel": {"temperature_start": 2.0, "temperature_end": 0.1, "loss": "relativistic"},
        "rollouts": {"rollouts": 4, "baseline_decay": 0.5},
        "dense": {"discount": 0.5, "baseline_decay": 0.0},
    }.items():
        experiment = TextGanExperiment.model_validate(
            {"adversarial": {"estimator": estimator, **own}}
        )
        assert parse_toml(to_toml(experiment)) == experiment
