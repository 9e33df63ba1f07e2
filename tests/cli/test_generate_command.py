"""`jaxgen generate`: options that conflict, prompts from elsewhere, beams, stops, conversations."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jaxgen
from jaxgen.cli import main
from jaxgen.cli.conversation import converse
from jaxgen.errors import UserError

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
SHORT = ("--max-new-tokens", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beam-size", 3, "--temperature", 0.2), "leave out --temperature"),
        (("--beam-size", 3, "--top-k", 2, "--seed", 1), "leave out --top-k, --seed"),
        (("--beam-size", 3, "--top-p", 0.5), "without chance: leave out --top-p"),
        (("--beam-size", 3, "--repetition-penalty", 2), "leave out --repetition-penalty"),
        (("--temperature", 0, "--n", 2), "so that there is one text: leave out --n"),
        (("--temperature", 0, "--seed", 2), "leave out --seed"),
        (("--temperature", 0, "--top-k", 2, "--stream"), "leave out --top-k"),
        (("--json", "--stream"), "--json needs whole texts: leave out --stream"),
        (("--json", "--interactive"), "--json needs whole texts: leave out --interactive"),
        (("--interactive", "--stream"), "--interactive streams its texts anyway"),
        (("--interactive", "--prompt", "a"), "reads prompts from the terminal: leave out --prompt"),
        (("--interactive", "--prompt-file", "-"), "leave out --prompt-file"),
        (("--prompt", "a", "--prompt-file", "-"), "give --prompt or --prompt-file, not both"),
        (("--seed", 2**32), "--seed must be in [-2147483648, 4294967296), got 4294967296"),
        (("--force",), "--force is for --out"),
        (("--escapes",), "--escapes is for --prompt and --stop"),
        (("--stop", "a", "--stop", "b"), "--stop is given 2 times"),
        (("--prompt=a", "--prompt", "b"), "--prompt is given 2 times"),
        (("--prompt",), "--prompt needs a value"),
        (("--prompt", "--top_p", 0.5), "--prompt needs a value"),
        (("--stop", "--json"), "--stop needs a value"),
        (("--prompt", "-foo"), "'-foo' looks like an option; as a value of --prompt write"),
        (("--prompt", "a", "--foo bar"), "--prompt=--foo bar"),
        (("--prompt-file", "no.txt"), "cannot read --prompt-file no.txt: No such file"),
    ],
)
def test_options_without_effect_are_refused(
    options: tuple[object, ...], message: str, tmp_path: Path, fail: Fail
) -> None:
    """All before a model is looked for."""
    assert message in fail("generate", tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.files",), "--data.files needs a value"),
        (("--data.files", "--out", "r"), "--data.files needs a value"),
        (("--data.files", "a", "--data.files", "b"), "--data.files is given 2 times"),
        (("--samples.temperatures=1", "--samples.temperatures=2"), "is given 2 times"),
        (("--samples.prompt", "-x"), "as a value of --samples.prompt write --samples.prompt=-x"),
    ],
)
def test_lists_of_training_are_refused_too(
    options: tuple[object, ...], message: str, fail: Fail
) -> None:
    assert message in fail("train", *options)


def test_lists_of_other_commands_are_refused_too(fail: Fail) -> None:
    assert "--files needs a value" in fail("evaluate", "r", "--files", "--json")
    assert "--files is given 2 times" in fail("evaluate", "r", "--files", "a", "--files=b")


@pytest.mark.filterwarnings("default")
def test_a_prompt_may_begin_with_a_dash(run: Path, say: Say) -> None:
    code, out, _ = say("generate", run, "--prompt=-1 and", *SHORT)
    assert code == 0
    assert out.startswith("-1 and")


def test_prompts_come_from_files_and_standard_input(
    run: Path, tmp_path: Path, say: Say, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = say("generate", run, "--prompt", "1 and", *SHORT)[1]
    (tmp_path / "prompt.txt").write_bytes("\ufeff1 and\r\n".encode())
    assert say("generate", run, "--prompt-file", tmp_path / "prompt.txt", *SHORT)[1] == wanted
    stream = ("--prompt-file", "-", "--stream")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 and\n")))
    assert say("generate", run, *stream, *SHORT)[1] == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 \xff")))
    message = fail("generate", run, *stream)
    assert "standard input must be UTF-8 text, and its byte 2 is not" in message
    assert "Is a directory" in fail("generate", run, "--prompt-file", tmp_path)


@pytest.mark.filterwarnings("default")
def test_escapes_are_read_where_asked_for(run: Path, say: Say) -> None:
    plain = say("generate", run, "--prompt", r"1\n2\\n", *SHORT)[1]
    assert plain.startswith(r"1\n2\\n")
    escaped = say("generate", run, "--prompt", r"1\n2\\n\q", "--escapes", *SHORT)[1]
    assert escaped.startswith("1\n2\\n\\q")


def test_figures_end_where_the_text_ends(run: Path, say: Say) -> None:
    lm = jaxgen.load(run)
    whole = lm.generate("1 and", max_new_tokens=40)
    stop = whole[9:12]
    options = ("--prompt", "1 and", "--stop", stop, "--max-new-tokens", 40, "--json")
    (output,) = json.loads(say("generate", run, *options)[1])["outputs"]
    text = whole[: whole.find(stop)]
    assert (output["text"], output["tokens"], output["finished"]) == (text, len(text), True)
    assert output["nll"] == pytest.approx(-lm.score(text, prompt="1 and").mean(), rel=1e-4)
    report = json.loads(say("generate", run, *options, "--report")[1])["report"]
    assert report["longest_copies"][0] <= len(text)
    options = (*options[:3], whole[0], *options[4:])
    (output,) = json.loads(say("generate", run, *options)[1])["outputs"]
    assert (output["text"], output["tokens"], output["nll"]) == ("", 0, None)
    assert say("generate", run, *options[:-1])[1] == "1 and\n"


def test_beams_obey_stop_strings_and_bans(run: Path, say: Say) -> None:
    command = ("generate", run, "--prompt", "1 and", "--beam-size", 3, "--n", 3, *SHORT)
    first = json.loads(say(*command, "--json")[1])["outputs"][0]["text"]
    stop = first[1:3]
    result = json.loads(say(*command, "--stop", stop, "--json")[1])
    assert "seed" not in result
    for output in result["outputs"]:
        assert stop not in output["text"]
        assert output["tokens"] == len(output["text"])
    assert say(*command, "--stop", stop, first[0])[1].count("no tokens") == 1


def test_a_line_that_is_wrong_does_not_end_a_conversation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C an empty line goes on from what was shown; after an error, from before it."""
    lines = b"one\n\nbad \xff\n\nrefused\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    asked: list[tuple[str, int]] = []

    def stream(text: str, seed: int) -> Any:
        if text == "refused":
            raise UserError("not that one")
        asked.append((text, seed))
        yield f" {seed}"
        if text == "one":
            raise KeyboardInterrupt
        yield "!"

    converse(stream, 5)
    assert [text for text, _ in asked] == ["one", "one 5", "one 5 6!", "one 5 6! 8!"]
    shown = capsys.readouterr()
    assert "error: the line is not UTF-8 text" in shown.err
    assert "error: not that one" in shown.err


@pytest.mark.filterwarnings("default")
def test_an_output_that_cannot_say_a_character(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, "cp1252", write_through=True))
    assert main(["generate", str(run), "--prompt", "한1", "--max-new-tokens", "2"]) == 0
    sys.stdout.flush()
    assert shown.getvalue().startswith(b"\\ud55c1")
