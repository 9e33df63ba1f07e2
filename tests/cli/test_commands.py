"""The command line: what it prints and its exit codes."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.cli.options import print_facts
from jaxgen.cli.tables import write_table
from jaxgen.cli.train import parse_train
from jaxgen.training.runs import Run

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


# Help


@pytest.mark.parametrize("command", ["train", "generate", "predict", "evaluate", "info", "export"])
def test_help(command: str, say: Say) -> None:
    code, out, _ = say(command, "--help")
    assert code == 0
    assert f"usage: jaxgen {command}" in out


def test_help_of_train_has_every_setting_with_the_files_defaults(config: Path, say: Say) -> None:
    _, out, _ = say("train", config, "--help")
    words = " ".join(out.replace("│", " ").split())
    for section, settings in jaxgen.Experiment().model_dump().items():
        for name in settings:
            assert f"--{section}.{name.replace('_', '-')}" in words
    assert "--model.hidden-size INT Units of each LSTM layer. (default: 8)" in words


def test_help_does_not_import_jax() -> None:
    code = """
import sys
from jaxgen.cli import main
for arguments in (["--help"], ["train", "--help"], ["predict", "--help"], ["train", "no.toml"]):
    try:
        main(arguments)
    except SystemExit:
        pass
print("\\nloaded:", *sorted({"jax", "flax", "datasets", "tokenizers"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.splitlines()[-1] == "loaded:"


# Training


@pytest.mark.slow
def test_options_override_the_file(config: Path, tmp_path: Path, say: Say) -> None:
    out = tmp_path / "run"
    code, _, err = say(
        *("train", "--model.hidden-size", 4, config, "--samples.temperatures", 0.1, 0.9),
        *("--training.max-steps", 2, "--out", out, "--optimizer.clip-norm", "None"),
    )
    assert code == 0
    assert "finished after 2 steps" in err
    experiment = jaxgen.load(out).config
    assert experiment.model.hidden_size == 4
    assert experiment.samples.temperatures == (0.1, 0.9)
    assert experiment.optimizer.clip_norm is None
    assert experiment.training.batch_size == 2


def test_a_corpus_named_by_an_option_replaces_the_files(
    config: Path, tmp_path: Path, say: Say
) -> None:
    text = config.read_text().replace("files = ", 'dataset = "some/where"\n# ')
    config.write_text(text)
    corpus, out = tmp_path / "corpus.txt", tmp_path / "run"
    assert say("train", config, "--data.files", corpus, "--out", out)[0] == 0
    data = jaxgen.load(out).config.data
    assert (data.dataset, data.files) == (None, (corpus,))


COLUMNS = {"source_column": "de", "target_column": "en"}


@pytest.mark.parametrize(
    ("base", "options", "wanted"),
    [
        (
            "dataset = 'a'\nsubset = 'b'",
            ("--data.source-files", "c", "--data.target-files", "d"),
            {"source_files": (Path("c"),), "target_files": (Path("d"),)},
        ),
        ("dataset = 'a'", ("--data.files", "c"), {"files": (Path("c"),), **COLUMNS}),
        ("files = ['a']\ntest_files = ['b']", ("--data.dataset", "c"), {"dataset": "c", **COLUMNS}),
    ],
)
def test_pairs_named_by_an_option_replace_those_of_the_file(
    base: str, options: tuple[str, ...], wanted: dict[str, Any], config: Path
) -> None:
    columns = "\n".join(f'{name} = "{column}"' for name, column in COLUMNS.items())
    config.write_text(f'task = "seq2seq"\n[data]\n{base}\n{columns}\n')
    data = parse_train([str(config), *options]).experiment.data
    assert data.model_dump(exclude_defaults=True) == wanted


def test_resume(config: Path, tmp_path: Path, say: Say, fail: Fail) -> None:
    out = tmp_path / "run"
    assert say("train", config, "--out", out, "--training.max-steps", 2)[0] == 0
    code, _, err = say("train", "--resume", "--out", out, "--training.max-steps", 3)
    assert code == 0
    assert "finished after 3 steps" in err
    assert "--resume" in fail("train", config, "--out", out)
    wrong = fail("train", "--resume", "--out", out, "--model.hidden-size", 9)
    assert "`model.hidden_size` is 8" in wrong
    assert say("train", config, "--out", out, "--force", "--training.max-steps", 1)[0] == 0


@pytest.mark.slow
def test_seeds_are_ordinary_runs(config: Path, run: Path, tmp_path: Path, say: Say) -> None:
    """`--seeds 2` twice as long as at first; its seed 0 is the run that `train` makes."""
    out = tmp_path / "seeds"
    short = ("--training.max-steps", 2)
    assert say("train", config, "--seeds", 2, "--out", out, *short)[0] == 0
    code, _, err = say("train", "--resume", "--out", out, "--training.max-steps", 4)
    assert code == 0
    assert "step 4  epoch 0.03  validation_bpc" in err
    assert err.count("finished after 4 steps  best validation nll") == 2
    assert err.count("<- best") == 1
    alone, member = (Run.open(path).load_params("last") for path in (run, out / "seed-0"))
    jax.tree.map(np.testing.assert_array_equal, alone, member)
    assert jaxgen.load(out / "seed-1").config.training.seed == 1
    assert say("generate", out / "seed-1", "--max-new-tokens", 3)[0] == 0
    figures = json.loads(say("evaluate", out / "seed-1", "--split", "validation", "--json")[1])
    facts = json.loads(say("info", out, "--json")[1])
    best = facts["runs"]["seed-1"]["best_validation_nll"]
    np.testing.assert_allclose(figures["nll"], best, rtol=1e-6)
    assert facts["kind"] == "seeds"
    assert "      best_step" not in say("info", out)[1]
    assert "    best_step" in say("info", out)[1]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jaxgen", "train", str(config), "--out", str(out)]
    command += ["--training.max-steps", "1000000", "--training.evaluate-every", "1000000"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        while "step " not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"continue with: jaxgen train --resume --out {out}" in err
    assert "Traceback" not in err
    assert Run.open(out).checkpoint("last")["step"] > 0


# Generating


def test_generate_one_text(run: Path, say: Say) -> None:
    code, out, _ = say("generate", run, "--prompt", "1 and", "--max-new-tokens", 7)
    assert code == 0
    assert out.startswith("1 and")
    assert len(out) == len("1 and") + 7 + 1
    expected = jaxgen.load(run).generate(["1 and"], n=1, max_new_tokens=7, key=0)[0][0]
    assert out == f"1 and{expected}\n"
    streamed = say("generate", run, "--prompt", "1 and", "--max-new-tokens", 7, "--stream")[1]
    alone = jaxgen.load(run).generate("1 and", max_new_tokens=7, key=0)
    assert streamed == f"1 and{alone}\n"


def test_generate_a_grid(run: Path, say: Say) -> None:
    grid = ("--prompt", "1", "2", "--temperature", 0, 0.5, "--top-p", 0.5, 0.9, "--n", 2)
    code, out, _ = say("generate", run, *grid, "--max-new-tokens", 3, "--json")
    assert code == 0
    outputs = json.loads(out)["outputs"]
    assert len(outputs) == 16
    assert {(o["prompt"], o["temperature"], o["top_p"], o["sample"]) for o in outputs} == {
        (p, t, q, s) for p in "12" for t in (0, 0.5) for q in (0.5, 0.9) for s in (0, 1)
    }
    greedy = {o["text"] for o in outputs if o["temperature"] == 0 and o["prompt"] == "1"}
    assert len(greedy) == 1
    assert all(o["tokens"] == 3 and o["nll"] > 0 for o in outputs)
    _, out, _ = say("generate", run, *grid, "--max-new-tokens", 3)
    assert out.count("--- temperature 0.5, top-p 0.9, sample 2") == 2


@pytest.mark.slow
def test_a_grid_goes_to_a_file(run: Path, tmp_path: Path, say: Say) -> None:
    grid = ("generate", run, "--temperature", 0.5, 1, "--top-p", 0.8, 0.95, "--max-new-tokens", 9)
    wanted = json.loads(say(*grid, "--json")[1])["outputs"]
    tables = {kind: tmp_path / f"texts.{kind}" for kind in ("jsonl", "csv", "md")}
    for path in tables.values():
        assert say(*grid, "--out", path)[:2] == (0, "")
    lines = tables["jsonl"].read_text().splitlines()
    assert [json.loads(line) for line in lines] == wanted
    with tables["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in row.items()} for row in wanted]
    assert say(*grid, "--out", tables["md"], "--force")[0] == 0
    head, rule, *rows = tables["md"].read_text().splitlines()
    assert head == f"| {' | '.join(wanted[0])} |"
    assert set(rule) == set("| -")
    assert [row.split(" | ")[1:3] for row in rows] == [
        *(["0.5", "0.8"], ["0.5", "0.95"], ["1", "0.8"], ["1", "0.95"])
    ]


def test_a_markdown_cell_shows_what_the_text_says(tmp_path: Path) -> None:
    write_table(tmp_path / "a.md", [{"text": "a|b\n<b>*c*\\", "nll": 1.23456}])
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert lines[2] == r"| a\|b<br>&lt;b&gt;\*c\*\\ | 1.235 |"


def test_generate_interactively(run: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["1 and", "", EOFError()])

    def answer(_: str) -> str:
        line = next(lines)
        if isinstance(line, EOFError):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    code, out, err = say("generate", run, "--interactive", "--max-new-tokens", 4)
    assert code == 0
    assert "empty line goes on" in err
    lm = jaxgen.load(run)
    first = lm.generate("1 and", max_new_tokens=4, key=0)
    second = lm.generate(f"1 and{first}", max_new_tokens=4, key=1)
    assert out == f"{first}\n{second}\n\n"


# Measuring, describing, exporting


def test_evaluate_and_info(run: Path, say: Say) -> None:
    code, out, _ = say("evaluate", run, "--json", "--split", "validation")
    assert code == 0
    assert json.loads(out)["nll"] == jaxgen.evaluate(run, split="validation")["nll"]
    assert json.loads(say("info", run, "--json")[1])["steps"] == 4
    assert "model.hidden_size" in say("info", run)[1]
    assert "tokens" in say("evaluate", run, "--split", "train")[1]


def test_facts_without_any_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a run whose settings are all the defaults."""
    print_facts({"path": "here", "settings": {}}, as_json=False)
    assert capsys.readouterr().out == "path      here\nsettings:\n"


def test_export(run: Path, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[Any] = []
    monkeypatch.setattr(
        "jaxgen.exports.push_to_hub", lambda *where: pushed.append(where) or "the address"
    )
    code, out, _ = say("export", run, tmp_path / "model", "--push-to-hub", "me/model")
    assert (code, out) == (0, "the address\n")
    assert pushed == [(tmp_path / "model", "me/model")]
    code, out, _ = say("generate", tmp_path / "model", "--max-new-tokens", 3)
    assert code == 0
    assert out == say("generate", run, "--max-new-tokens", 3)[1]


def test_beam_search_finds_the_likeliest_first(run: Path, say: Say) -> None:
    options = ("--prompt", "1 and", "--beam-size", 3, "--n", 3, "--max-new-tokens", 4, "--json")
    code, out, _ = say("generate", run, *options)
    outputs = json.loads(out)["outputs"]
    assert code == 0
    assert len({output["text"] for output in outputs}) == 3
    nll = [output["nll"] for output in outputs]
    assert nll == sorted(nll)


def test_report(run: Path, say: Say) -> None:
    code, out, _ = say("generate", run, "--max-new-tokens", 30, "--n", 2, "--report", "--json")
    assert code == 0
    report = json.loads(out)["report"]
    assert len(report["longest_copies"]) == 2
    assert 0 <= report["novel_2"] <= 1
    _, out, _ = say("generate", run, "--max-new-tokens", 30, "--report")
    assert "longest_copies" in out
