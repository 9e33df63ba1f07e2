"""Labels as people write them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.generation.labels import LabelWeights, parse_labels, read_steering, stack_labels

NAMES = ["joy", "fear", "anger", "a=b", "not:bad"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("joy", ((0,), (1.0,))),
        (" fear ", ((1,), (1.0,))),
        ("joy=0.75,fear=0.25", ((0, 1), (0.75, 0.25))),
        ("joy=3, fear", ((0, 1), (0.75, 0.25))),
        ("not:anger", ((2,), (-1.0,))),
        ("not: anger=0.5 , joy = 2", ((0, 2), (1.0, -0.5))),
        ("a=b", ((3,), (1.0,))),
        ("a=b=2,joy=2", ((3, 0), (0.5, 0.5))),
        ("not:bad", ((4,), (1.0,))),
        ("not:not:bad", ((4,), (-1.0,))),
        ("joy=1,fear=0", ((0, 1), (1.0, 0.0))),
    ],
)
def test_labels_are_ids_and_weights(text, wanted):
    assert parse_labels(text, NAMES) == LabelWeights(*wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jooy", r"must be one of joy, fear, anger, a=b, not:bad, got 'jooy', did you mean `joy`"),
        ("", "must be one of .*, got ''"),
        ("not:hope", "must be one of .*, got 'hope'"),
        ("joy=-1,fear=2", "0 or more, got 'joy=-1'; to steer away"),
        ("joy=inf", "must be a finite number"),
        ("joy=much", "must be a finite number"),
        ("joy=0,fear=0", "must sum to more than 0"),
        ("joy=1e308,fear=1e308", "must sum to more than 0, and to a number, got inf"),
        ("joy,joy=2", "each label once, got `joy` twice"),
        ("joy,not:joy", "each label once, got `joy` twice"),
    ],
)
def test_what_cannot_be_followed_is_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_labels(text, NAMES)


def test_rows_with_fewer_labels_are_filled_with_weight_0():
    labels, weights = stack_labels([parse_labels(x, NAMES) for x in ("fear", "joy=3,anger=1")])
    assert labels.tolist() == [[1, 0], [0, 2]]
    assert weights.tolist() == [[1, 0], [0.75, 0.25]]


@pytest.mark.parametrize(
    "label", [1, np.int64(1), np.array(1), jnp.array([1]), [np.int32(1)], (1,), "fear", "fear=2"]
)
def test_one_label_in_any_form_is_that_of_every_row(label):
    condition = read_steering({"label": label}, NAMES, 6).condition(3)
    assert condition.dtype == np.int32
    assert condition.tolist() == [1, 1, 1]


def test_strengths_multiply_weights():
    options = {"label": ["joy=3,fear=1", "not:anger"], "guidance": [2, 0.5]}
    steering = read_steering(options, NAMES, 6)
    assert steering.sizes == {"label": 2, "guidance": 2}
    labels, null, weights = steering.condition(2)
    assert null == 5
    assert labels.tolist() == [[0, 1], [2, 0]]
    assert weights.tolist() == [[1.5, 0.5], [-0.5, 0]]
    options = {"label": "fear", "guidance": jnp.array([0.0, 1.0])}
    labels, _, weights = read_steering(options, NAMES, 6).condition(2)
    assert labels.tolist() == [[1], [1]]
    assert weights.tolist() == [[0], [1]]
    assert read_steering({}, NAMES, 6).condition(2).tolist() == [5, 5]
    assert read_steering({}, NAMES, 0) is None
    assert read_steering({"after": object()}, NAMES, 6) is None
