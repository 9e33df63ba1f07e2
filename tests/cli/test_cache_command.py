"""`--cache` and `--dynamic` from the command line, against Python."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tiny_run import TEXT

import jaxgen
from jaxgen.data.streams import TokenArray
from jaxgen.evaluation.cache import cache_nll
from jaxgen.experiment import evaluate, load
from jaxgen.models.token_nll import token_nll
from jaxgen.tasks.adapted import reader_of

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
SETTINGS = ("--cache", 20, "--cache-theta", 0.5, "--cache-lambda", 0.2)


@pytest.mark.slow
def test_a_cache_is_reported_beside_the_plain_figures(run: Path, say: Say) -> None:
    code, out, err = say("evaluate", run, "--cache", 20, "--json")
    assert code == 0, err
    figures = json.loads(out)
    plain = evaluate(run)
    assert {name: figures[name] for name in plain} == pytest.approx(plain)
    chosen = figures["cache"]
    assert chosen["window"] == 20
    assert chosen["nll"] == pytest.approx(figures["nll"], rel=0.5)
    assert chosen["nll"] != figures["nll"]
    assert chosen["chosen_on"] == "the validation text"
    given = {"cache_theta": chosen["theta"], "cache_lambda": chosen["lambda"]}
    again = evaluate(run, cache=20, **given)["cache"]
    assert "chosen_on" not in again
    assert again["nll"] == pytest.approx(chosen["nll"])
    # What is chosen is the best on the validation text.
    others = [evaluate(run, split="validation", cache=20, cache_theta=theta, cache_lambda=0.1)
              for theta in (0.02, 2.0)]  # fmt: skip
    best = evaluate(run, split="validation", cache=20, **given)["cache"]["nll"]
    assert best <= min(figures["cache"]["nll"] for figures in others)


def test_a_text_read_at_once_costs_what_it_scores_token_by_token(run: Path) -> None:
    lm = load(run)
    reader = reader_of(lm)
    tokens = TokenArray(lm.tokenizer.encode(TEXT[:70]))
    read, batches = partial(token_nll, reader.model), partial(reader.batches, tokens, 1)
    carry = reader.model.initial_carry(1)
    found = cache_nll(read, lm.params, carry, batches, 30, (0.5,), (0.2,))
    scores = jaxgen.with_cache(lm, 30, theta=0.5, lambda_=0.2).score(TEXT[1:70], prompt=TEXT[0])
    assert found.at(0.5, 0.2).total == pytest.approx(-scores.sum(), rel=1e-4)
    assert found.at(0.5, 0.2).total < found.plain.total  # sums repeat themselves


@pytest.mark.slow
def test_generate_remembers(run: Path, say: Say) -> None:
    same = ("--prompt", "1 and ", "--max-new-tokens", 12, "--seed", 4)
    code, out, err = say("generate", run, *SETTINGS, *same, "--json")
    assert code == 0, err
    assert "chosen" not in err
    found = json.loads(out)
    assert found["cache"] == {"window": 20, "theta": 0.5, "lambda": 0.2}
    lm = jaxgen.with_cache(load(run), 20, theta=0.5, lambda_=0.2)
    text = lm.generate("1 and ", max_new_tokens=12, key=4, temperature=1.0)
    assert found["outputs"][0]["text"] == text
    code, _, err = say("generate", run, "--cache", 20, "--cache-theta", 0.5, *same)
    assert code == 0
    assert "--cache-theta 0.5 --cache-lambda " in err


@pytest.mark.slow
def test_dynamic_evaluation_is_reported_and_leaves_the_run_alone(run: Path, say: Say) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    figures = {}
    for rule in ("sgd", "rms"):
        code, out, err = say("evaluate", run, "--dynamic", "--dynamic-rule", rule, "--json")
        assert code == 0, err
        figures[rule] = json.loads(out)["dynamic"]
        assert figures[rule]["rule"] == rule
        assert figures[rule]["rate"] > 0
    plain = evaluate(run)["nll"]
    assert figures["sgd"]["nll"] < plain  # a model after four steps has much to learn
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    still = evaluate(run, dynamic=True, dynamic_rate=1e-12)["dynamic"]
    assert "chosen_on" not in still
    # In one row and not in several, of which each begins from zeros.
    assert still["nll"] == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("evaluate", ("--cache", 0), "`cache` must be at least 1, got 0"),
        ("generate", ("--cache", -3), "`cache` must be at least 1, got -3"),
        ("evaluate", ("--cache-theta", 0.1), "--cache-theta is for --cache"),
        ("generate", ("--cache-lambda", 0.1), "--cache-lambda is for --cache"),
        ("evaluate", ("--cache", 5, "--cache-theta=-1"), "`cache_theta` must be 0 or more"),
        ("generate", ("--cache", 5, "--cache-lambda", 1), "`cache_lambda` must be at least 0"),
        ("evaluate", ("--cache", 5, "--protocol", "windows"), "`cache` measures one model by"),
        ("evaluate", ("--dynamic", "--protocol", "windows"), "`dynamic` measures one model by"),
        ("evaluate", ("--dynamic-rate", 0.1), "`dynamic_rate` is for `dynamic`"),
        ("evaluate", ("--dynamic", "--dynamic-rate", 0), "`dynamic_rate` must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    command: str, arguments: tuple, said: str, run: Path, fail: Fail
) -> None:
    assert said in fail(command, run, *arguments)
