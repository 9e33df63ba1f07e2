"""`jaxgen generate` with several models, and texts held to an expression."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import write_config

import jaxgen
from jaxgen.cli import main
from jaxgen.experiment import evaluate, load

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]


def test_texts_match_an_expression(run: Path, say: Say) -> None:
    arguments = ("--regex", "[0-9]{2} and [0-9][.]", "--prompt", "1 and ", "--n", 3, "--json")
    code, out, err = say("generate", run, *arguments)
    assert code == 0, err
    texts = [output["text"] for output in json.loads(out)["outputs"]]
    assert all(re.fullmatch(r"\d\d and \d[.]", text) for text in texts)
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--regex", "[0-"), "`regex` must be a regular expression"),
        (("--regex", "é"), "`regex` must match some text of the model's"),
        (("--ensemble-weights", 1, 2), "--ensemble-weights is for --ensemble"),
        (("--ensemble-mode", "product"), "--ensemble-mode is for --ensemble"),
        (("--ensemble", "{run}"), "an ensemble needs two models or more"),
        (("--ensemble", "{run}", "--ensemble-weights", 1), "one number for each of the 2 runs"),
        (("--ensemble", "nowhere"), "run directory nowhere does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple, said: str, run: Path, fail: Fail) -> None:
    named = (str(argument).format(run=run) for argument in arguments)
    assert said in fail("generate", run, *named)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two seeds; do not write into it."""
    folder = tmp_path_factory.mktemp("seeds")
    config = write_config(folder)
    assert main(["train", str(config), "--seeds", "2", "--out", str(folder / "seeds")]) == 0
    return folder / "seeds"


@pytest.mark.slow
def test_seeds_write_together(seeds: Path, run: Path, say: Say, fail: Fail) -> None:
    same = ("--prompt", "1 and ", "--max-new-tokens", 12, "--seed", 4)
    code, out, err = say("generate", seeds, "--ensemble", seeds, *same)
    assert code == 0, err
    joined = jaxgen.load_ensemble(seeds)
    text = joined.generate("1 and ", max_new_tokens=12, key=4, temperature=1)
    assert out == f"1 and {text}\n"
    first, second = seeds / "seed-0", seeds / "seed-1"
    assert say("generate", first, "--ensemble", second, *same)[1] == out
    assert say("generate", first, "--ensemble", seeds, first, *same)[1] == out
    mode = ("--ensemble-mode", "product", "--ensemble-weights", 2, -1)
    assert say("generate", first, "--ensemble", second, *mode, *same)[0] == 0
    mean = ("--ensemble-weights", 1, -1)
    message = fail("generate", first, "--ensemble", second, *mean, *same)
    assert "`weights` of an average must be 0 or more" in message
    # With all the weight, one of them is itself.
    alone = ("--ensemble-weights", 0, 1)
    out = say("generate", first, "--ensemble", second, *alone, *same)[1]
    assert out == say("generate", second, *same)[1]


@pytest.mark.slow
def test_the_perplexity_of_seeds_is_that_of_their_mean(
    seeds: Path, tmp_path: Path, fail: Fail
) -> None:
    figures = evaluate(seeds, ensemble=True)
    each = [evaluate(seeds / name) for name in ("seed-0", "seed-1")]
    assert figures["tokens"] == each[0]["tokens"]
    assert figures["nll"] < sum(one["nll"] for one in each) / 2  # log is concave
    # The same model twice says what it says alone.
    other = tmp_path / "copy"
    jaxgen.export(seeds / "seed-0", other)
    twice = jaxgen.load_ensemble([seeds / "seed-0", other])
    lm = load(seeds / "seed-0")
    assert twice.perplexity("1 and 2 make 3.") == pytest.approx(lm.perplexity("1 and 2 make 3."))
    message = fail("evaluate", seeds, "--ensemble", "--protocol", "windows")
    assert "`protocol` windows measures one model" in message


@pytest.mark.slow
def test_runs_of_other_vocabularies_are_refused(seeds: Path, tmp_path: Path, fail: Fail) -> None:
    config = write_config(tmp_path, "quite another text, of other letters. " * 40)
    assert main(["train", str(config), "--out", str(tmp_path / "other")]) == 0
    message = fail("generate", tmp_path / "other", "--ensemble", seeds)
    assert "the models of an ensemble must have one vocabulary" in message
