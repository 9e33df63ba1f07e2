"""`jaxgen predict`: texts from everywhere, lines and JSON, explanations, options that conflict."""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_classifier import bag_of_words, table_of, tiny_settings, with_function

from jaxgen.cli import shading
from jaxgen.prediction.classifier import Classifier
from jaxgen.tasks import TASKS

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
Load = Callable[[Classifier], None]
TOPICS = ("art", "money", "sport")
LINES = "good a\n\nbad b\r\nfine c"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Its log-odds of `positive` are the sum of what the words say."""
    return with_function(bag_of_words, table_of({"good": (0, 2), "bad": (0, -2), "fine": (0, 1)}))


@pytest.fixture(autouse=True)
def loaded(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Stand in for a run: whatever directory is named, this is what it holds."""

    def load(model: Classifier) -> None:
        monkeypatch.setattr("jaxgen.experiment.load", lambda run, which: model)

    monkeypatch.setattr("jaxgen.saved.check_command", lambda run, command: None)
    load(classifier)
    return load


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


# What is printed


def test_texts_have_a_line_each(say: Say) -> None:
    code, out, err = say("predict", "run", "Good a", "bad\n b\tc")
    assert (code, err) == (0, "")
    assert out == "positive\t0.8808\tGood a\nnegative\t0.8808\tbad b c\n"
    assert say("predict", "run", "--", "-1 good")[1] == "positive\t0.8808\t-1 good\n"
    # After a list of values as well: 0.95 moves the first text to the other class.
    out = say("predict", "run", "--threshold", 0.95, "good")[1]
    assert out == "negative\t0.1192\tgood\n"
    assert say("predict", "run", "good", "--temperature", 2)[1] == "positive\t0.7311\tgood\n"


def test_json_has_an_object_a_text(say: Say, classifier: Classifier) -> None:
    first, second = map(json.loads, say("predict", "run", "good", "bad", "--json")[1].splitlines())
    prediction = classifier.predict("good")
    assert first == {
        "text": "good",
        "label": "positive",
        "labels": ["positive"],
        "probability": prediction.probability,
        "probabilities": prediction.probabilities,
    }
    assert second["label"] == "negative"


def test_several_labels_have_commas_between(say: Say, loaded: Load) -> None:
    table = table_of({"good": (1, -1, 1)}, default=-1)
    multi = with_function(bag_of_words, table, TOPICS, multi_label=True)
    loaded(multi)
    out = say("predict", "run", "good", "bad")[1]
    assert out == "art,sport\t0.7311,0.7311\tgood\n\t\tbad\n"
    assert json.loads(say("predict", "run", "bad", "--json")[1])["labels"] == []


# Where texts come from


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["lines.txt", "lines.txt.gz"])
def test_lines_of_a_file_are_answered_in_order(name: str, tmp_path: Path, say: Say) -> None:
    """An empty line is an empty text: the answers can be put beside the lines."""
    content = b"\xef\xbb\xbf" + LINES.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    code, out, err = say("predict", "run", "--file", tmp_path / name)
    assert code == 0
    assert out == "positive\t0.8808\npositive\t0.5000\nnegative\t0.8808\npositive\t0.7311\n"
    assert "warning: 1 of 4 texts have no token that the model knows" in err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("options", [(), ("--file", "-")])
def test_lines_of_standard_input(
    options: tuple[str, ...], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"\xef\xbb\xbf" + LINES.encode())
    out = say("predict", "run", *options, "--json")[1].splitlines()
    assert [json.loads(line)["label"] for line in out] == [
        *("positive", "positive", "negative", "positive")
    ]
    assert "text" not in json.loads(out[0])


@pytest.mark.filterwarnings("default")
def test_columns_of_tables(tmp_path: Path, say: Say) -> None:
    """The column of the model's own corpus, `text`, unless another is named."""
    csv, jsonl, tsv = tmp_path / "a.csv", tmp_path / "a.jsonl.gz", tmp_path / "a.tsv"
    csv.write_text('id;text\n1;"bad a; b"\n2;good\n')
    said = say("predict", "run", "--file", csv)
    assert said[1] == "negative\t0.8808\npositive\t0.8808\n"
    assert "--separator , takes commas instead" in said[2]
    assert say("predict", "run", "--file", csv, "--separator", ";")[2] == ""
    rows = [{"review": "good"}, {"review": None}, {"review": "bad"}]
    jsonl.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    out = say("predict", "run", "--file", jsonl, "--column", "review")[1]
    assert out == "positive\t0.8808\npositive\t0.5000\nnegative\t0.8808\n"
    tsv.write_text("1\tgood\n2\tbad\n")
    out = say("predict", "run", "--file", tsv, "--column", 1)[1]
    assert out == "positive\t0.8808\nnegative\t0.8808\n"


def test_columns_of_parquet_files(tmp_path: Path, say: Say) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"text": ["good", "bad"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    out = say("predict", "run", "--file", tmp_path / "a.parquet")[1]
    assert out == "positive\t0.8808\nnegative\t0.8808\n"


def test_progress_is_said(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxgen.data.progress._FIRST_SECONDS", 0.0)
    (tmp_path / "a.txt").write_text("good\n" * 600)
    code, out, err = say("predict", "run", "--file", tmp_path / "a.txt")
    assert (code, out) == (0, "positive\t0.8808\n" * 600)
    assert f"classifying {tmp_path / 'a.txt'}: 256 texts, " in err


# Explanations


def test_an_explanation_in_numbers(say: Say) -> None:
    out = say("predict", "run", "good a bad fine", "--explain")[1]
    assert out == (
        "positive\t0.7311\tgood a bad fine\n+2.0000\tgood\n+0.0000\ta\n-2.0000\tbad\n"
        "+1.0000\tfine\n\n"
    )
    found = json.loads(say("predict", "run", "bad", "a", "--explain", "--json")[1].splitlines()[0])
    assert (found["label"], found["explained"]) == ("negative", "negative")
    assert found["words"] == [{"word": "bad", "weight": 2.0}]


@pytest.mark.filterwarnings("default")
def test_empty_lines_are_explained_too(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"good\n\nbad")
    out = say("predict", "run", "--explain", "--json")[1]
    assert [len(json.loads(line)["words"]) for line in out.splitlines()] == [1, 0, 1]


def test_an_explanation_is_shaded_in_a_terminal(
    say: Say, monkeypatch: pytest.MonkeyPatch, classifier: Classifier
) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = say("predict", "run", "good [b]a bad  fine", "--explain")[1]
    assert "\x1b[30;48;2;0;235;0mgood\x1b[0m [b]a " in out
    assert "\x1b[30;48;2;235;0;0mbad\x1b[0m  \x1b[30;48;2;118;235;118mfine" in out
    assert "(green: for positive, red: against it)" in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "+2.0000\tgood" in say("predict", "run", "good", "--explain")[1]
    monkeypatch.undo()
    shown = shading.shaded(classifier.explain(" good a\nbad "))
    assert shown.plain == " good a\nbad"


def test_what_is_not_read_of_a_long_text_is_left_out(classifier: Classifier) -> None:
    text = "good " + "a " * 60 + "bad " + "a " * 20
    found = classifier.explain(text)  # 32 tokens are read
    assert found.weights[0] == 2
    assert not found.weights[1:].any()
    assert shading.weight_lines(found) == ["+2.0000\tgood", "\t[...]"]
    assert shading.shaded(found).plain == "good [...]"


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a", "--file", "b"), "give texts or --file, not both"),
        (("a", "--column", "b"), "--column is for --file: leave it out, or give --file"),
        (("a", "--separator", "b"), "--separator is for --file"),
        (("good", " "), "text 2 to classify is empty, got ' '; leave it out"),
        (("",), "text 1 to classify is empty"),
        (("good", "--threshold", 1.3), "`threshold` must be a probability in [0, 1], got 1.3"),
        (("good", "--temperature", 0), "`temperature` must be more than 0, got 0"),
        (("--file", "no.txt"), "there is no file no.txt; check the path"),
        (("--file", "no.csv"), "there is no file no.csv"),
        (("--file", "a.txt", "--column", "b"), "--column is for csv, tsv, json, jsonl and parquet"),
        (("--file", "-", "--separator", ";"), "and standard input is read line by line"),
        (("--file",), "--file"),
    ],
)
def test_bad_options(options: tuple[object, ...], message: str, say: Say) -> None:
    code, out, err = say("predict", "run", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_bad_files(tmp_path: Path, fail: Fail) -> None:
    def written(name: str, content: bytes) -> tuple[str, Path]:
        (tmp_path / name).write_bytes(content)
        return "--file", tmp_path / name

    message = fail("predict", "run", *written("a.csv", b"id,txt\n1,good\n"))
    assert (
        "has no column `text`, did you mean `txt`?; there are: id, txt; choose one with" in message
    )
    assert "--column" in message
    assert "--data." not in message
    message = fail("predict", "run", *written("a.jsonl", b'{"text": 5}\n'))
    assert "column `text` must hold text, got 5 in" in message
    message = fail("predict", "run", *written("a.txt", b"good\nb\xffd\n"))
    assert "is not UTF-8 at byte 6 (0xff); convert the file, or" in message
    assert "--errors replace" in message
    message = fail("predict", "run", *written("b.csv", b"text\nb\xffd\n"))
    assert "is not UTF-8" in message
    assert "is empty" in fail("predict", "run", *written("b.txt", b""))
    assert "binary" in fail("predict", "run", *written("c.txt", b"good\0"))


def test_bad_bytes_can_be_replaced(
    tmp_path: Path, say: Say, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"good \xff\nbad\n")
    wanted = "positive\t0.8808\nnegative\t0.8808\n"
    assert say("predict", "run", "--file", tmp_path / "a.txt", "--errors", "replace")[1] == wanted
    type_in(monkeypatch, b"good \xff\nbad\n")
    message = fail("predict", "run")
    assert "standard input must be UTF-8 text, and byte 5 of its line 1 is not" in message
    type_in(monkeypatch, b"good \xff\nbad\n")
    assert say("predict", "run", "--errors", "ignore")[1] == wanted


def test_nothing_to_classify(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"")
    assert "standard input is empty; give a text for each line" in fail("predict", "run")
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert "there is nothing to classify; give texts after the run" in fail("predict", "run")


def test_a_threshold_among_three_classes(fail: Fail, loaded: Load) -> None:
    loaded(with_function(bag_of_words, table_of({"good": (1, 0, 0)}), TOPICS))
    message = fail("predict", "run", "good", "--threshold", 0.5)
    assert "this model tells 3 classes apart and takes the likeliest; leave it out" in message


def test_a_language_model_names_its_command(
    run: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for command in ("predict", "translate"):
        message = fail(command, run, "good")
        assert f"{run} is of task language_model, which has no `jaxgen {command}`" in message
        assert f"use `jaxgen generate {run}`" in message


def test_a_classifier_names_its_command(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("jaxgen.saved.settings_of", lambda path: tiny_settings())
    message = fail("generate", "here", "--prompt", "good")
    assert message == (
        "here is of task classifier, which has no `jaxgen generate`; use `jaxgen predict here`"
    )


def test_options_of_classifiers_mean_nothing_to_a_language_model(
    run: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for option in (("--threshold", 0.5), ("--temperature", 2), ("--baselines",), ("--plots", "p")):
        message = fail("evaluate", run, *option)
        assert f"({option[0]}) is for task classifier" in message
        assert "and this model is of task language_model" in message


def test_a_task_may_show_its_figures_itself(
    run: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    task = replace(TASKS["language_model"], show=lambda figures: f"{figures['tokens']} tokens")
    monkeypatch.setitem(TASKS, "language_model", task)
    figures = json.loads(say("evaluate", run, "--json")[1])
    assert say("evaluate", run)[1] == f"{figures['tokens']} tokens\n"
