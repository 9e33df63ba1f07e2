"""Pairs, texts and options that an encoder-decoder cannot use: one line each, exit code 2."""

import io
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_translator import write_export_of

from jaxgen.cli.models import Evaluate
from jaxgen.evaluation.translation import TOKENIZERS
from jaxgen.training.runs import Run

LANGUAGE_MODEL = Path(__file__).parents[1] / "fixtures" / "format_1" / "run"
Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]

FILES = {
    "three.de": b"eins\nzwei\ndrei\n",
    "two.en": b"one\ntwo\n",
    "three.en": b"one\ntwo\nthree\n",
    "gap.en": b"one\n\nthree\n",
    "utf16.en": "one\ntwo\nthree\n".encode("utf-16"),
    "empty.en": b"",
    "blank.de": b"\n \n\n",
    "three.txt": b"Go.\tVa !\tCC-BY\nRun.\tCours !\tCC-BY\n",
    "swapped.tsv": b"eins zwei drei\teins zwei drei\n",
    "named.jsonl": b'{"de": "eins", "en": "one"}',
    "pairs.tsv": b"eins\tone\nzwei\ttwo\n",
}
SIDES = ("--data.source-files", "three.de", "--data.target-files")
COLUMNS = ("--data.source-column", 0, "--data.target-column", 1)
NONE_HELD_OUT = ("--data.validation-fraction", 0, "--data.test-fraction", 0)
SWAPPED = ("--data.files", "swapped.tsv", *COLUMNS, *NONE_HELD_OUT)
CUT = (*SWAPPED, "--model.output", "adaptive", "--model.cutoffs")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pairs of words; do not write into it."""
    return write_export_of(tmp_path_factory.mktemp("words"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files above lie, and where commands run."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


# How pairs are read has its own tests; these are what the command makes of errors in each stage.
TRAIN = {
    "lines left over": ((*SIDES, "two.en"), "two.en ends after line 2 and three.de goes on with"),
    "an empty line": ((*SIDES, "gap.en"), "0 sources and 1 targets of three.de, gap.en are empty"),
    "UTF-16": ((*SIDES, "utf16.en"), "utf16.en is UTF-16, not UTF-8; convert it: iconv"),
    "one side": (SIDES[:2], "`data.target_files` must be as many, got 1 and 0"),
    "three columns": (("--data.files", "three.txt"), "three.txt has 3 columns and none is named"),
    "long sources": (
        (*SWAPPED, "--data.too-long", "refuse", "--data.source-length", 7),
        "1 of 1 sources of swapped.tsv are longer than `data.source_length`, 7 tokens; the longest "
        "is number 1 with 14; raise",
    ),
    "a tied last layer": (
        (*SWAPPED, "--model.attention", "none", "--model.tied", "--model.decoder-last-size", 5),
        "`decoder_last_size` must be 0 or `embedding_size`, 64",
    ),
    "cut-offs of a full output": (
        (*SWAPPED, "--model.cutoffs", 5),
        "`model.cutoffs` divide an adaptive output",
    ),
    "cut-offs that fall": ((*CUT, 5, 3), "`model.cutoffs` must rise, got 5 3"),
    "cut-offs beyond": ((*CUT, 500), "`cutoffs` must lie below the vocabulary of 13 tokens"),
    "a tail of nothing": ((*CUT, 3, "--model.tail-divisor", 200), "each tail a part of the 128"),
    "a tied tail of nothing": (
        (*CUT, 3, "--model.tied", "--model.tail-divisor", 65),
        "leave each tail a part of the 64 numbers",
    ),
}


@pytest.mark.filterwarnings("default:the target is the source")
@pytest.mark.parametrize("case", TRAIN)
def test_pairs_that_cannot_be_trained_on(case: str, folder: Path, fail: Fail) -> None:
    options, message = TRAIN[case]
    assert message in fail("train", "--task", "seq2seq", *options, "--out", folder / "run")
    assert not Run.exists(folder / "run")


@pytest.mark.filterwarnings("default:the target is the source")
def test_swapped_columns_are_warned_of(say: Say) -> None:
    # The sizes do not go together, so that nothing is trained.
    code, _, err = say("train", "--task", "seq2seq", *SWAPPED, "--model.attention", "dot")
    warning, error = err.splitlines()
    assert warning.startswith(
        "warning: the target is the source itself in 1 of 1 pairs of swapped.tsv; are"
    )
    assert "the encoder gives 256 numbers a step where the decoder has 128; set `enc" in error
    assert code == 2


PICTURE = "--attention must be a file that ends in .png, in a directory that exists"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a u", "--n-best", 3), "`n_best` must be in [1, beam_size = 2], got 3"),
        (("a u", "--prefix", "u hut"), "the prefix 'u hut' holds 'hut', which the vocabulary of"),
        (("a u", "--attention", "no/where.png"), f"{PICTURE}, got no/where.png"),
        (("a u", "--attention", "."), f"{PICTURE}, got ."),
        (("a u", "--attention", "a.pdf"), f"{PICTURE}, got a.pdf"),
        (("--file", "none.de"), "there is no file none.de"),
        (("--file", "empty.en"), "empty.en is empty"),
        (("--file", "utf16.en"), "utf16.en is UTF-16, not UTF-8; convert it"),
        (("--file", "pairs.tsv", "--column", "de"), "no column `de`; there are: eins, one; choose"),
        (("a u", "--ensemble", LANGUAGE_MODEL), "models of an ensemble must be of one task"),
    ],
)
def test_what_cannot_be_translated(options, message: str, export: Path, fail: Fail) -> None:
    assert message in fail("translate", export, *options)


def test_standard_input_that_cannot_be_translated(
    export: Path, fail: Fail, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, b"")
    assert "standard input is empty" in fail("translate", export)
    type_in(monkeypatch, "a u\n".encode("utf-16"))
    assert "standard input must be UTF-8 text, and byte 0" in fail("translate", export)
    type_in(monkeypatch, FILES["blank.de"])
    assert say("translate", export) == (0, "\n\n\n", "")
    assert say("translate", export, "--file", "blank.de")[1] == "\n\n\n"


def test_no_matplotlib(export: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxgen.evaluation.pictures.find_spec", lambda name: None)
    message = fail("translate", export, "a u", "--attention", "a.png")
    assert "--attention needs matplotlib, which is not installed; install jaxgen[plot]" in message


def test_models_of_other_tasks(export: Path, fail: Fail) -> None:
    for command in ("generate", "predict"):
        message = fail(command, export, *["a"] * (command == "predict"))
        assert f"is of task seq2seq, which has no `jaxgen {command}`; use" in message
    message = fail("translate", LANGUAGE_MODEL, "a")
    assert "is of task language_model, which has no `jaxgen translate`; use" in message
    message = fail("evaluate", LANGUAGE_MODEL, "--beam-size", 2)
    assert (
        "`beam_size` (--beam-size) is for task seq2seq, and this model is of task lang" in message
    )
    message = fail("evaluate", LANGUAGE_MODEL, "--source-files", "a", "--target-files", "b")
    assert "are for pairs of texts, and this model is of task language_model; give `f" in message


BOTH = ("--source-files", "three.de", "--target-files")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BOTH[:2], "`target_files` (--target-files) must be as many, got 1 and 0; give"),
        (("--target-files", "a", "b"), "must be as many, got 0 and 2"),
        ((*BOTH, "three.en", "--files", "pairs.tsv"), "got `source_files` beside them; leave one"),
        ((*BOTH, "three.en", "--split", "test"), "got test beside `source_files`; leave one of"),
        ((*BOTH, "two.en"), "two.en ends after line 2 and three.de goes on with 'drei'"),
        ((*BOTH, "utf16.en"), "utf16.en is UTF-16"),
        (
            ("--files", "named.jsonl"),
            "--data.separator; that is an option of `train`, and other files are read by the "
            "settings of the run, so change the files",
        ),
        (("--beam-size", 0), "`beam_size` must be at least 1, got 0"),
        (("--split", "train", "--baselines"), "it says nothing of the training part; choose"),
    ],
)
def test_what_cannot_be_measured(options, message: str, export: Path, fail: Fail) -> None:
    assert message in fail("evaluate", export, *options)


def test_no_sacrebleu(export: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    message = fail("evaluate", export, "--bleu-tokenize", "char")
    assert "BLEU and chrF need sacreBLEU, which is not installed; install jaxgen[eval]" in message


def test_the_tokenizers_of_sacrebleu_are_all_offered() -> None:
    hint = typing.get_type_hints(Evaluate)["bleu_tokenize"]
    choices, _ = typing.get_args(hint)
    assert typing.get_args(choices) == TOKENIZERS
