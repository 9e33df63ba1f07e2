"""Pictures and tables of a classifier's figures."""

import numpy as np
import pytest

from jaxgen.evaluation.calibration import reliability
from jaxgen.evaluation.classification import log_probabilities
from jaxgen.evaluation.classification_plots import plot_classification
from jaxgen.evaluation.classification_report import report
from jaxgen.evaluation.classification_tables import (
    confusion_table,
    grid,
    reliability_table,
    report_tables,
    shorten,
)


def draw(classes, multi_label=False):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, classes))
    if multi_label:
        return (rng.random((60, classes)) < 0.5).astype(np.float64), logits
    return rng.integers(0, classes, 60), logits


def read(path):
    from matplotlib.image import imread

    return imread(path)


@pytest.mark.parametrize(
    ("names", "multi_label"),
    [
        (["$x$ costs $", "기쁨, with a name that is much too long for an axis"], False),
        ([f"label {i}" for i in range(26)], False),
        (["kind", "한국어"], True),
    ],
)
def test_three_pictures(tmp_path, names, multi_label):
    labels, logits = draw(len(names), multi_label)
    paths = plot_classification(tmp_path, labels, logits, names, temperature=1.5, threshold=0.6)
    assert [path.name for path in paths] == ["confusion.png", "roc.png", "calibration.png"]
    for path in paths:
        picture = read(path)
        assert picture.shape[0] > 400
        assert picture[..., :3].std() > 0.05  # something is drawn


def test_without_matplotlib_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgen.evaluation.pictures.find_spec", lambda name: None)
    assert plot_classification(tmp_path, *draw(2), ["a", "b"]) == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_warned_of(tmp_path):
    (tmp_path / "roc.png").mkdir()
    labels, logits = draw(2)
    labels = np.zeros_like(labels)  # a class alone has no ROC curve, and is drawn all the same
    with pytest.warns(UserWarning, match=r"could not draw .*roc\.png"):
        paths = plot_classification(tmp_path, labels, logits, ["a", "b"])
    assert [path.stem for path in paths] == ["confusion", "calibration"]


def test_names_are_cut_by_their_width():
    assert shorten("기쁨과 슬픔", 11) == "기쁨과 슬픔"
    assert shorten("기쁨과 슬픔", 8) == "기쁨과…"
    assert shorten("two\nlines\t", 24) == "two lines "
    assert grid([["기쁨", "1"], ["joys", "20"], ["x", "슬"]]) == "기쁨   1\njoys  20\nx     슬"


def test_a_confusion_table():
    table = confusion_table([[1200, 30], [4, 6]], ["negative", "긍정"])
    assert table.splitlines() == [
        "true \\ predicted  negative  긍정  recall",
        "negative             1,200    30   0.976",
        "긍정                     4     6   0.600",
    ]
    several = confusion_table([[[5, 1], [2, 1000]]], ["spam"])
    assert several.splitlines() == [
        "label  found  missed  false alarms  rightly none",
        "spam   1,000       2             1             5",
    ]


def test_what_does_not_fit_is_a_list_of_confusions():
    counts = np.eye(20, dtype=int) * 9
    counts[3, 4], counts[7, 2] = 3, 27
    names = [f"class {i}" for i in range(20)]
    assert confusion_table(counts, names).splitlines() == [
        "true -> predicted   examples  of its class",
        "class 7 -> class 2        27         75.0%",
        "class 3 -> class 4         3         25.0%",
    ]
    assert confusion_table(np.eye(20, dtype=int), names) == "no confusions"
    assert "true \\ predicted  class 0  class 1" in confusion_table(counts, names, width=250)


def test_a_report_as_tables():
    labels, logits = draw(3)
    labels[labels == 2] = 0
    text = report_tables(report(labels, logits, ["a", "b", "없음"]))
    lines = text.splitlines()
    assert lines[0] == "class  precision  recall     F1    AUC  examples"
    assert lines[3].startswith("없음       0.000   0.000  0.000      -         0")
    assert lines[5].startswith("true \\ predicted")
    probabilities = np.exp(log_probabilities(logits))
    found = reliability(labels, probabilities)
    table = reliability_table(found).splitlines()
    assert len(table) == 2 + np.count_nonzero(found.counts)
    assert table[-1] == f"expected calibration error {found.ece:.4f}"
