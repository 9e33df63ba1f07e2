"""`jaxgen generate --label ... --guidance ...`: grids, titles, tables, streams and bad input."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from generation.text_models import make_labelled_model, make_model

from jaxgen.cli.labels import typed_labels
from jaxgen.generation.text import TextModel

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
RUN = ("generate", "a-run")
SHORT = ("--prompt", "ab", "--max-new-tokens", 4)


@pytest.fixture(scope="module")
def model() -> Iterator[TextModel]:
    """With little optimization, as in the tests of generation: that compiles faster."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield make_labelled_model()
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def lm(model: TextModel, monkeypatch: pytest.MonkeyPatch) -> TextModel:
    """What `jaxgen generate a-run` loads."""
    monkeypatch.setattr("jaxgen.saved.check_command", lambda run, command: None)
    monkeypatch.setattr("jaxgen.experiment.load", lambda run, checkpoint: model)
    return model


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (("joy", "not:anger", "1"), ["joy", "not:anger", 1]),
        (("all", "-1"), ["joy", "3", -1]),
        (("3", "all=1"), ["3", "all=1"]),
    ],
)
def test_numbers_and_all_are_read_where_no_label_is_called_so(
    typed: tuple[str, ...], wanted: list[object]
) -> None:
    assert typed_labels(typed, ("joy", "3")) == wanted
    assert typed_labels(["all"], ("all", "joy")) == ["all"]
    assert typed_labels(["all"], ()) == ["all"]


def test_labels_and_guidance_are_axes_of_the_grid(lm: TextModel, say: Say) -> None:
    grid = ("--label", "joy", "not:anger", "--guidance", 1, 2.5, "--n", 2, "--seed", 3)
    outputs = json.loads(say(*RUN, *SHORT, *grid, "--json")[1])["outputs"]
    names = ("label", "guidance", "sample")
    assert [tuple(output[name] for name in names) for output in outputs] == [
        (label, g, n) for label in ("joy", "not:anger") for g in (1.0, 2.5) for n in (0, 1)
    ]
    wanted = lm.sample(
        ["ab"] * 4,
        n=2,
        key=3,
        label=["joy", "joy", "not:anger", "not:anger"],
        guidance=[1, 2.5] * 2,
        max_new_tokens=4,
    )
    assert [output["text"] for output in outputs] == [
        sample.text for row in wanted for sample in row
    ]
    out = say(*RUN, *SHORT, *grid)[1]
    assert out.count("--- label not:anger, guidance 2.5, sample 2\nab") == 1
    assert "temperature" not in out


def test_all_writes_the_prompt_under_every_label_in_one_call(
    lm: TextModel, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    sample: Any = TextModel.sample

    def counted(self: TextModel, prompt: list[str], **options: object) -> object:
        asked.append(options["label"])
        return sample(self, prompt, **options)

    monkeypatch.setattr(TextModel, "sample", counted)
    code, out, _ = say(*RUN, *SHORT, "--label", "all", "--temperature", 0)
    assert (code, asked) == (0, [["joy", "fear", "anger"]])
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 4}
    texts = [f"ab{x.text}" for x in sample(lm, ["ab"] * 3, label=[0, 1, 2], **options)]
    names = [f"--- label {name}" for name in lm.labels]
    assert out.splitlines() == [line for pair in zip(names, texts, strict=True) for line in pair]
    table = tmp_path / "texts.csv"
    say(*RUN, *SHORT, "--label", "all", "--temperature", 0, "--out", table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(lm.labels)
    assert "guidance" not in rows[0]
    assert [row["prompt"] + row["text"] for row in rows] == texts


def test_integers_are_labels_as_before(lm: TextModel, say: Say) -> None:
    (output,) = json.loads(say(*RUN, *SHORT, "--label", 1, "--json")[1])["outputs"]
    assert output["label"] == 1
    assert output["text"] == lm.sample(["ab"], label="fear", max_new_tokens=4)[0].text


def test_a_beam_follows_labels(lm: TextModel, say: Say) -> None:
    options = (*RUN, *SHORT, "--beam-size", 3, "--label", "joy=2,fear=1", "anger")
    options = (*options, "--guidance", 2)
    wanted = lm.beam_search(
        ["ab", "ab"], label=["joy=2,fear=1", "anger"], guidance=2, num_beams=3, max_new_tokens=4
    )
    outputs = json.loads(say(*options, "--json")[1])["outputs"]
    assert [output["text"] for output in outputs] == [beam.text for beam in wanted]
    assert [output["label"] for output in outputs] == ["joy=2,fear=1", "anger"]
    assert "--- label anger, guidance 2, 1, " in say(*options)[1]


def test_streams_and_conversations_follow_a_label(
    lm: TextModel, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = ("--label", "not:joy", "--guidance", 2)
    wanted = lm.generate("ab", label="not:joy", guidance=2, max_new_tokens=4)
    assert say(*RUN, *SHORT, *steering, "--stream")[1] == f"ab{wanted}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\n")))
    code, out, _ = say(*RUN, *SHORT[2:], *steering, "--interactive")
    assert code == 0
    assert wanted in out


ONE = "at most one --label and one --guidance"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "jog"), "must be one of joy, fear, anger, got 'jog', did you mean `joy`?"),
        (("--label", "all", "hope"), "must be one of joy, fear, anger, got 'hope'"),
        (("--label", 4), "must be in [0, 4) or name joy, fear, anger, one or one a prompt, got 4"),
        (("--label", -1), "got -1"),
        (("--label", "joy=-1,fear=2"), "0 or more, got 'joy=-1'"),
        (("--label", "joy=0,fear=0"), "must sum to more than 0"),
        (("--label", "joy", "--guidance", -1), "must be a finite number, 0 or more, got -1.0"),
        (("--label", "joy", "--guidance", "nan"), "must be a finite number, 0 or more, got nan"),
        (("--guidance", 2), "--guidance strengthens a label: leave it out, or give --label"),
        (("--label", "joy", "fear", "--stream"), ONE),
        (("--label", "all", "--stream"), ONE),
        (("--label", "joy", "--guidance", 1, 2, "--interactive"), ONE),
        (("--prompt", "ab", "--label", "jog", "--stream"), "joy, fear, anger, got 'jog'"),
        (("--label", "jog", "--interactive"), "must be one of joy, fear, anger, got 'jog'"),
        (("--label",), "--label needs a value"),
        (("--label", "joy", "--label", "fear"), "--label is given 2 times"),
    ],
)
def test_bad_labels_and_strengths(
    options: tuple[object, ...], message: str, lm: TextModel, fail: Fail
) -> None:
    assert message in fail(*RUN, *options)


@pytest.mark.parametrize("label", ["joy", "all", 1])
def test_a_model_without_labels_takes_none(
    label: object, lm: TextModel, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxgen.experiment.load", lambda run, checkpoint: make_model())
    message = fail(*RUN, "--label", label, "--guidance", 2)
    assert "`label` must be left out: this model has no labels" in message
