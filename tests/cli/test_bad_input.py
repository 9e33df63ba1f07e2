"""One clear error for each bad input, through the command line: one line, exit code 2."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxgen.training.runs import Run, locked

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "format_1"
ADAPTIVE = ("--model.output", "adaptive")
Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", -1), "`temperature` must be"),
        (("--temperature", "nan"), "`temperature` must be"),
        (("--top-p", 1.3), "`top_p` must be in (0, 1], got 1.3; use 1.0 to disable"),
        (("--top-k", 1000), "`top_k` must be at most the vocabulary"),
        (("--max-new-tokens", 0), "`max_new_tokens` must be at least 1, got 0"),
        (("--n", 0), "`n` must be at least 1, got 0"),
        (("--beam-size", 2, "--n", 3), "--n must be 1 to --beam-size, 2, got 3"),
        (("--beam-size", 2, "--stream"), "--beam-size finds whole texts"),
        (("--label", 1), "`label` must be left out: this model has no labels, got 1"),
        (("--report", "--stream"), "--report needs whole texts"),
        (("--stream", "--n", 2), "--stream and --interactive write one text at a time"),
        (("--temperature",), "--temperature needs a value"),
        (("--out", "texts.xlsx"), "--out must end in .jsonl, .csv, .md, got texts.xlsx"),
        (("--out", "no/where.csv"), "--out must be in a directory that exists, got no/where.csv"),
        (("--out", "a.md", "--stream"), "--out needs whole texts"),
    ],
)
def test_bad_sampling(options: tuple[object, ...], message: str, run: Path, fail: Fail) -> None:
    assert message in fail("generate", run, *options)


def test_out_that_cannot_be_written(run: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "folder.csv").mkdir()
    message = fail("generate", run, "--out", tmp_path / "folder.csv")
    assert "--out must be a file, not a directory" in message
    name = f"{'x' * 300}.csv"  # unwritable even to the superuser
    message = fail("generate", run, "--max-new-tokens", 2, "--out", tmp_path / name)
    assert "name too long" in message
    (tmp_path / "mine.csv").write_text("mine")
    message = fail("generate", run, "--max-new-tokens", 2, "--out", tmp_path / "mine.csv")
    assert "mine.csv is there already; replace it with --force" in message
    assert (tmp_path / "mine.csv").read_text() == "mine"


@pytest.mark.filterwarnings("default")
def test_unknown_characters_of_a_prompt_are_counted_in_one_warning(run: Path, say: Say) -> None:
    code, out, err = say("generate", run, "--prompt", "é1é", "--max-new-tokens", 2)
    assert code == 0
    assert out.startswith("é1é")
    assert err.count("warning: ") == 1
    assert "'é' U+00E9 (2x)" in err


# Bad corpora


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"\x00\x01\x02\xff" * 200, "binary"),
        (b"good text " * 50 + b"\xff\xfe" + b"good text " * 50, "byte 500"),
        (b"short " * 3, "one batch of 2 sequences of 8 needs 17"),
    ],
    ids=["missing", "empty", "binary", "broken UTF-8", "short"],
)
def test_bad_corpus(
    content: bytes | None, message: str, config: Path, tmp_path: Path, fail: Fail
) -> None:
    corpus = tmp_path / "bad.txt"
    if content is not None:
        corpus.write_bytes(content)
    command = ("train", config, "--data.files", corpus, "--out", tmp_path / "run")
    assert message in fail(*command)
    assert not Run.exists(tmp_path / "run")


def test_broken_utf8_can_be_replaced(config: Path, tmp_path: Path, say: Say) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good text " * 50 + b"\xff" + b"good text " * 50)
    code, _, err = say(
        *("train", config, "--data.files", tmp_path / "bad.txt", "--data.errors", "replace"),
        *("--out", tmp_path / "run"),
    )
    assert code == 0, err


def test_unknown_column(config: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "a.csv").write_text("title,body\n" + "x,some words\n" * 30)
    message = fail(
        *("train", config, "--data.files", tmp_path / "a.csv", "--data.column", "bdy"),
        *("--out", tmp_path / "run"),
    )
    assert "no column `bdy`, did you mean `body`?; there are: title, body" in message


def test_no_network(config: Path, tmp_path: Path, fail: Fail) -> None:
    command = ("train", config, "--data.dataset", "some/where", "--out", tmp_path / "run")
    message = fail(*command)
    assert "some/where" in message
    assert "--data.files" in message


# Bad settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.hidden-size", 0), "`model.hidden_size` must be at least 1, got 0"),
        (("--model.hidden-size", 10**15), "`model.hidden_size` must be at most 268435456, got 10"),
        (("--model.dropout", 1.0), "`model.dropout` must be less than 1.0, got 1.0"),
        (("--optimizer.learning-rate", -1), "`optimizer.learning_rate` must be more than 0.0"),
        (("--optimizer.learning-rate", "nan"), "must be a finite number"),
        (("--training.devices", 99), "`training.devices` must be at most"),
        (("--model.tied",), "`model.tied` shares the embedding"),
        (("--model.cutoffs", 5), "`model.cutoffs` divide an adaptive output"),
        ((*ADAPTIVE, "--model.cutoffs", 5, 5), "`model.cutoffs` must rise, got 5 5"),
        ((*ADAPTIVE, "--model.cutoffs", 0, 5), "`model.cutoffs` must be at least 1, got 0"),
        ((*ADAPTIVE, "--model.cutoffs", 5, 500), "`cutoffs` must lie below the vocabulary of 19"),
        ((*ADAPTIVE, "--model.cutoffs", 5, 9), "leave each tail a part of the 8 numbers"),
        ((*ADAPTIVE, "--model.tail-divisor", 0.5), "`model.tail_divisor` must be at least 1"),
        (("--tokenizer.kind", "bpe"), "needs `tokenizer.vocab_size`"),
        (("--training.accumulate-steps", 10000), "`training.accumulate_steps` must be at most"),
        (("--training.seed", 99999999999999999999), "`training.seed` must be less than 4294967296"),
        (("--samples.prompt", "the \udcff"), r"the argument `the \xff` is not text in utf-8"),
        (("--training.loss", "sampled"), "`training.sampled_tokens` must be below the"),
        (("--training.sampled-tokens", 0), "`training.sampled_tokens` must be at least 1, got 0"),
        (("--model.hidden-size", 300000), "optimizer state would take 5.24 TiB of memory, and"),
    ],
)
def test_impossible_settings(
    options: tuple[object, ...], message: str, config: Path, tmp_path: Path, fail: Fail
) -> None:
    assert message in fail("train", config, *options, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 0), "`seeds` must be at least 1, got 0; leave it out to train one run"),
        (("--seeds", 3, "--training.devices", 2), "`training.devices` must divide the 3 seeds"),
        (("--seeds", 2, "--model.backend", "cudnn"), "`model.backend` must be scan (or auto"),
    ],
)
def test_impossible_seeds(
    options: tuple[object, ...], message: str, config: Path, tmp_path: Path, fail: Fail
) -> None:
    assert message in fail("train", config, *options, "--out", tmp_path / "run")


@pytest.mark.slow
def test_seeds_and_single_runs_are_kept_apart(
    config: Path, run: Path, tmp_path: Path, say: Say, fail: Fail
) -> None:
    out = tmp_path / "seeds"
    assert say("train", config, "--seeds", 1, "--out", out, "--training.max-steps", 1)[0] == 0
    assert "already holds a run; continue it with --resume" in fail("train", config, "--out", out)
    assert "--resume --out" in fail("train", "--resume", "--out", out / "seed-0")
    assert "but" in fail("train", "--resume", "--seeds", 2, "--out", out)
    assert "has no seeds that train together" in fail(
        *("train", "--resume", "--seeds", 2, "--out", run)
    )
    for command in ("generate", "evaluate"):
        assert f"name one of them, such as {out}/seed-0" in fail(command, out)
    shutil.copytree(out / "seed-0", tmp_path / "copy")
    resumed = ("train", "--resume", "--out", tmp_path / "copy", "--training.max-steps", 2)
    assert say(*resumed)[0] == 0
    assert say("train", config, "--force", "--out", out, "--training.max-steps", 1)[0] == 0
    assert not (out / "seed-0").exists()
    assert Run.exists(out)


def test_bad_options_and_files(config: Path, tmp_path: Path, say: Say, fail: Fail) -> None:
    code, _, err = say("train", config, "--model.hidden-sze", 3)
    assert code == 2
    assert "--model.hidden-size" in err
    assert say("train", config, "--model.hidden-size", "three")[0] == 2
    assert say("generate")[0] == 2
    assert say("nonsense")[0] == 2
    assert fail("train", tmp_path / "no.toml").startswith("no configuration file at")
    config.write_text("[model]\nhidden_sze = 3")
    assert "did you mean `model.hidden_size`?" in fail("train", config)


# Bad directories


def test_other_peoples_files_are_never_overwritten(
    config: Path, tmp_path: Path, say: Say, fail: Fail
) -> None:
    """The user's own configuration and checkpoint, in the directory named by --out."""
    out = tmp_path / "p"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "my.pt").write_text("x")
    shutil.copy(config, out / "config.toml")
    for extra in ((), ("--force",), ("--seeds", 2), ("--force", "--seeds", 2)):
        message = fail("train", out / "config.toml", "--out", out, *extra)
        assert "is not empty and not a run: it holds checkpoints, config.toml; choose" in message
    assert {path.name for path in out.rglob("*")} == {"checkpoints", "my.pt", "config.toml"}
    assert (out / "config.toml").read_text() == config.read_text()


def test_out_that_is_no_directory(config: Path, tmp_path: Path, fail: Fail) -> None:
    for out in (config, config / "run"):
        assert "is a file, " in fail("train", config, "--out", out)
        assert "is a file, " in fail("export", FIXTURE / "run", out)
        assert "is a file" in fail("info", out)
    (tmp_path / "gone").symlink_to("nowhere")
    assert "is a symbolic link to a directory" in fail("train", config, "--out", tmp_path / "gone")
    if Path("/proc").is_dir():  # where even the superuser makes no directory
        assert "cannot make the directory /proc/x" in fail("train", config, "--out", "/proc/x")
        assert "cannot write the export /proc/x" in fail("export", FIXTURE / "run", "/proc/x")


def test_no_export_into_a_run(tmp_path: Path, say: Say, fail: Fail) -> None:
    copy = copy_of(FIXTURE / "run", tmp_path)
    assert "holds a run; choose another directory" in fail("export", copy, copy)
    assert "lies inside the run" in fail("export", copy, copy / "model", "--force")
    assert say("export", copy, tmp_path / "model")[0] == 0
    assert "already holds an export; replace it with --force" in fail(
        *("export", copy, tmp_path / "model")
    )
    assert say("export", copy, tmp_path / "model", "--force")[0] == 0


# Bad terminals


def test_output_that_cannot_be_written() -> None:
    """A full device, and characters that the terminal cannot say."""
    code = "import sys; from jaxgen.__main__ import main; sys.argv[0] = 'jaxgen'; sys.exit(main())"
    command = [sys.executable, "-c", code, "info", str(FIXTURE / "run")]
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot write to standard output" in done.stderr
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command[3:] = ["generate", "--help"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=True)
    assert b"usage: jaxgen generate" in done.stdout


def test_an_error_of_the_system_is_one_line(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxgen import experiment

    errors = {
        "config.toml: Input/output error": OSError(errno.EIO, "Input/output error", "config.toml"),
        "out of memory: RESOURCE_EXHAUSTED: 9 GB": RuntimeError("RESOURCE_EXHAUSTED: 9 GB\nhere"),
        "out of memory: MemoryError; lower": MemoryError(),
    }
    for message, error in errors.items():

        def describe(*arguments: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(experiment, "describe", describe)
        assert message in fail("info", "run")
    monkeypatch.setattr(experiment, "describe", lambda run: {}["jaxgen is at fault"])
    with pytest.raises(KeyError):
        fail("info", "run")


# Bad runs


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))


def test_missing_and_half_written_runs(run: Path, tmp_path: Path, fail: Fail) -> None:
    assert "does not exist" in fail("generate", tmp_path / "nowhere")
    copy = copy_of(run, tmp_path)
    (copy / "run.json").unlink()
    for command in (("generate",), ("evaluate",), ("info",), ("train", "--resume", "--out")):
        assert "is not a run directory, or one whose start was cut off" in fail(*command, copy)


def test_truncated_run(run: Path, tmp_path: Path, fail: Fail) -> None:
    copy = copy_of(run, tmp_path)
    largest = max((copy / "checkpoints").rglob("*"), key=lambda path: path.stat().st_size)
    for checkpoint in (copy / "checkpoints").iterdir():
        for path in checkpoint.rglob(largest.name):
            path.write_bytes(path.read_bytes()[:-3])
    assert "is truncated" in fail("generate", copy)
    (copy / "run.json").write_text('{"format": 1,')
    assert "damaged" in fail("generate", copy)


DAMAGE = [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"a": 1}', b"{}", None]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("run", name) for name in ("run.json", "config.toml", "tokenizer.json")),
        *(("seeds", name) for name in ("seeds.json", "tokenizer.json", "config.toml")),
        *(("export", name) for name in ("config.json", "tokenizer.json", "model.safetensors")),
    ],
)
@pytest.mark.filterwarnings("default")
def test_damaged_files(kind: str, name: str, tmp_path: Path, say: Say) -> None:
    """Truncated, of another type, not UTF-8, a directory in its place: an error or no matter."""
    copy = copy_of(FIXTURE / kind, tmp_path)
    commands = [("info",), ("info", "--backend"), ("train", "--resume", "--out"), ("export",)]
    empty_is_fine = name == "config.toml"  # every setting is the default
    for content in DAMAGE[1:] if empty_is_fine else DAMAGE:
        (copy / name).unlink()
        if content is None:
            (copy / name).mkdir()
        else:
            (copy / name).write_bytes(content)
        for command in commands:
            if kind == "export" and command[0] == "train" and content:
                continue  # no run, whatever it holds: refused unread
            last = (tmp_path / "model",) if command == ("export",) else ()
            code, _, err = say(*command, copy, *last)
            # It tells of the runs below; a choice of backend follows from the settings alone.
            unread = kind == "seeds" and name != "seeds.json" and command[0] == "info"
            settings = ("config.json", "config.toml", "run.json", "seeds.json")
            if unread or (command == ("info", "--backend") and name not in settings):
                assert code == 0
                continue
            assert (code, err.count("error: ")) == (2, 1), (content, command, err)
            assert not (tmp_path / "model").exists()


def test_newer_run(run: Path, tmp_path: Path, fail: Fail) -> None:
    copy = copy_of(run, tmp_path)
    index = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(index | {"format": 99}))
    assert "format 99, newer than" in fail("generate", copy)


def test_two_trainings_in_one_directory(config: Path, tmp_path: Path, fail: Fail) -> None:
    with locked(tmp_path / "run"):
        message = fail("train", config, "--out", tmp_path / "run")
    assert "is being trained by process" in message


def test_full_disk_keeps_the_last_checkpoint(
    config: Path, tmp_path: Path, say: Say, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxgen.training import runs

    saves, save_tree = [], runs.save_tree

    def failing(*arguments: Any) -> Any:
        saves.append(arguments)
        if len(saves) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_tree(*arguments)

    monkeypatch.setattr(runs, "save_tree", failing)
    out = tmp_path / "run"
    message = fail("train", config, "--out", out)
    assert "No space left on device" in message
    assert "the checkpoint of step 2 still loads" in message
    assert say("generate", out, "--max-new-tokens", 2)[0] == 0
    assert say("train", "--resume", "--out", out)[0] == 0


def test_loss_that_is_not_finite(config: Path, tmp_path: Path, say: Say, fail: Fail) -> None:
    out = tmp_path / "run"
    message = fail(
        *("train", config, "--out", out, "--optimizer.name", "sgd"),
        *("--optimizer.learning-rate", 1e38, "--optimizer.clip-norm", "None"),
    )
    assert "at step" in message
    assert say("generate", out, "--max-new-tokens", 2)[0] == 0


def test_options_without_effect(run: Path, config: Path, tmp_path: Path, fail: Fail) -> None:
    message = fail("train", config, "--resume", "--out", run)
    assert "would have no effect; leave it out" in message
    assert "choose one of them" in fail("train", "--resume", "--force", "--out", run)
    export = FIXTURE / "export"
    for command, *more in (("generate",), ("evaluate",), ("export", tmp_path / "again")):
        assert "is an export and holds one set of parameters" in fail(
            command, export, *more, "--checkpoint", "last"
        )
    message = fail("evaluate", run, "--split", "test", "--files", FIXTURE / "corpus.txt")
    assert "`split` names a part of the model's own corpus" in message
