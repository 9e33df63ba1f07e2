"""Label sets: an order that holds, numbers and back, unknown labels refused."""

import json

import numpy as np
import pytest

from jaxgen.data.labels import LabelSet
from jaxgen.errors import UserError


def test_integers_are_ordered_as_numbers_and_words_as_words() -> None:
    assert LabelSet.fit([("10",), ("9",), ("-1",), ("9",)]).names == ("-1", "9", "10")
    assert LabelSet.fit([("10",), ("9",), ("b",), ("a",)]).names == ("10", "9", "a", "b")
    assert LabelSet.fit([("중립",), ("긍정",), ("부정",)]).names == ("긍정", "부정", "중립")


def test_class_ids() -> None:
    labels = LabelSet(("anger", "joy", "fear"))
    ids = labels.encode([("fear",), ("anger",), ("fear",)], "train.csv")
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 0, 2]
    assert labels.encode([], "nothing").shape == (0,)


def test_several_labels() -> None:
    labels = LabelSet.fit([("b",), ("a", "c"), ()], multi_label=True)
    rows = labels.encode([("a", "c"), (), ("b",)], "train.csv")
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert labels.encode([], "nothing").shape == (0, 3)


def test_written_and_read() -> None:
    labels = LabelSet(("부정", "긍정"), multi_label=True)
    written = labels.to_dict()
    assert written == {"labels": ["부정", "긍정"], "multi_label": True}
    assert LabelSet.from_dict(json.loads(json.dumps(written)) | {"more": 1}) == labels


@pytest.mark.parametrize(
    ("rows", "multi_label", "message"),
    [
        ([("pos",), ("pos",)], False, r"every training text has the label 'pos'.* two or more"),
        ([(), ()], True, r"no training text has a label"),
    ],
)
def test_nothing_to_tell_apart(rows: list, multi_label: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelSet.fit(rows, multi_label)


def test_one_label_is_enough_where_texts_may_have_none() -> None:
    assert LabelSet.fit([("spam",), ()], multi_label=True).names == ("spam",)


@pytest.mark.parametrize("multi_label", [False, True])
def test_unknown_labels(multi_label: bool) -> None:
    labels = LabelSet(("negative", "positive"), multi_label)
    with pytest.raises(
        UserError,
        match=r"test.csv has a label that the training data do not have: positiv, did you mean "
        r"`positive`\?; known are: negative, positive; mend",
    ):
        labels.encode([("positive",), ("positiv",)], "test.csv")
    many = [(f"label {n}",) for n in range(30)]
    with pytest.raises(UserError, match=r"30 labels .*label 19, \.\.\. \(30 in all\); known"):
        labels.encode(many, "test.csv")
