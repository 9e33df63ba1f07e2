"""Time to a quality beside the examples of Keras and Flax: protocols, limits, records, sections."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import addition, fra_eng, report, results
from jaxgen.data.pairs import Pairs
from jaxgen.errors import UserError

HELD_OUT = Pairs(["1+2", "3+4"], ["3", "7"], "sums")


class Recorded:
    """A contestant that answers one sum more rightly at each point, 10 s apart."""

    def __init__(self, points: int):
        self.points, self.done = points, 0

    def call(self, method: str, **arguments: Any) -> Any:
        if method == "answers":
            assert arguments["sources"] == ["1+2", "3+4"]
            return [*["3", "7"][: self.done - 1], "x", "x"][:2]
        if self.done == self.points:
            return None
        self.done += 1
        return {"seconds": 10.0 * self.done, "steps": self.done, "nll": 0.5}


@pytest.mark.parametrize(
    ("points", "limit", "shares"),
    [(9, 1e3, [0.0, 0.5, 1.0]), (9, 15.0, [0.0, 0.5]), (1, 1e3, [0.0])],
    ids=["goal", "limit", "end"],
)
def test_a_contestant_stops_at_the_goal_the_limit_or_its_end(
    points: int, limit: float, shares: list[float]
) -> None:
    found = addition.run_until("jaxgen", 3, Recorded(points), HELD_OUT, limit)
    assert [point["exact_match"] for point in found["points"]] == shares
    assert [point["seconds"] for point in found["points"]] == [10.0, 20.0, 30.0][: len(shares)]
    assert found["reached"] == (shares[-1] == 1.0)


def test_a_trial_stops_after_its_points() -> None:
    assert len(addition.run_until("Flax", 0, Recorded(9), HELD_OUT, 1e3, 2)["points"]) == 2


def test_times_to_the_goal_are_shown_as_ratios() -> None:
    def run(name: str, seconds: float, exact_match: float) -> dict[str, Any]:
        point = {"seconds": seconds, "steps": 70, "exact_match": exact_match}
        return {"name": name, "seed": 0, "reached": exact_match >= 0.99, "points": [point]}

    runs = [run("Keras", 300.0, 0.991), run("Flax", 600.0, 0.75), run("jaxgen", 20.0, 0.995)]
    content = {"runs": runs, "digits": 3, "train": 45_000, "held_out": 5_000, "command": "run it"}
    content |= {"dry_run": False, "kind": "addition", "machine": {}}
    lines = report.page({"a.json": content}, []).splitlines()
    ours, keras, flax = [
        line for line in lines if line.startswith(("| jaxgen", "| Keras", "| Flax"))
    ]
    assert "20.0" in ours
    assert keras.rstrip(" |").endswith("15.0")
    assert "not in 600" in flax
    assert flax.rstrip(" |").endswith("more than 30.0")


def test_sums_made_as_it_goes_are_right_and_never_held_out() -> None:
    pytest.importorskip("optax")
    from benchmarks.peers.flax_addition import CHARACTERS, EOS, FIRST, FlaxAddition

    held_out = ["1+2", "3+4", "5+0", "7+7"]
    flax = FlaxAddition(1, held_out, steps=1, batch_size=64, units=4)
    sources, lengths, targets = flax.batch()
    assert (sources.shape, targets.shape) == ((64, 4), (64, 4))

    def text(row: list[int]) -> str:
        return "".join(CHARACTERS[token - FIRST] for token in row[: row.index(EOS)])

    drawn = [text(row) for row in sources.tolist()]
    assert [len(source) for source in drawn] == lengths.tolist()
    sums = [source.split("+") for source in drawn]
    assert not {f"{a}+{b}" for a, b in sums} & {*held_out, "2+1", "4+3", "0+5"}
    assert [text(row) for row in targets.tolist()] == [f"={int(a) + int(b)}" for a, b in sums]


@pytest.mark.slow
def test_the_flax_example_learns_and_answers_by_itself() -> None:
    """One digit, trained on what it is asked: every answer is right after some hundred steps."""
    from benchmarks.peers.flax_addition import FlaxAddition

    flax = FlaxAddition(1, [], steps=300, batch_size=64, units=32)
    sources = [f"{a}+{b}" for a in range(10) for b in range(10)]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam
        before, _, after = (flax.advance() for _ in range(3))
    assert (before["steps"], after["steps"]) == (300, 900)
    assert before["seconds"] < after["seconds"]
    right = [str(a + b) for a in range(10) for b in range(10)]
    answers = flax.answers(sources)
    assert np.mean([x == y for x, y in zip(answers, right, strict=True)]) > 0.95


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Seventy lines, one with a quotation mark, some with a third column."""
    lines = [f"Go {n}!\tVa {n} fois !" for n in range(60)]
    lines[3] = 'Say "yes.\tDis « oui ».'
    lines[4] += "\tCC-BY"
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join([*lines, *["more\tplus"] * 10]) + "\n", encoding="utf-8")
    return path


def test_positions_and_real_tokens_are_the_examples(pairs: Path) -> None:
    """Of the last 20 of 60 pairs, beside the longest target of all with its two marks."""
    lines = fra_eng.Lines.read(pairs, dry_run=True)
    sources, targets = lines.sides()
    assert (len(sources), sources[3], targets[4]) == (60, 'Say "yes.', "Va 4 fois !")
    assert lines.counts() == (20 * (len("Va 10 fois !") + 2), 20 * (len("Va 10 fois !") + 1))


def test_the_files_hold_the_same_pairs_for_jaxgen(pairs: Path, tmp_path: Path) -> None:
    from jaxgen.cli.train import parse_train
    from jaxgen.data.pairs import load_pairs

    lines = fra_eng.Lines.read(pairs, dry_run=True)
    (folder := tmp_path / "data").mkdir()
    experiment: Any = parse_train([str(fra_eng.CONFIG), *lines.write(folder)]).experiment
    corpus: Any = load_pairs(experiment.data)
    train, held_out = corpus.train, corpus.validation
    read = [*train.sources, *held_out.sources], [*train.targets, *held_out.targets]
    assert read == lines.sides()
    assert (len(corpus.train), corpus.test) == (40, None)


def test_unfit_files_are_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\tun\n" * 5)
    with pytest.raises(UserError, match=r"must have 60 lines .* target: it has 5"):
        fra_eng.Lines.read(path, dry_run=True)
    path.write_text("one\tun\n" * 59 + "two\n")
    with pytest.raises(UserError, match="line 60 has no tab"):
        fra_eng.Lines.read(path, dry_run=True)
    assert fra_eng.main([str(tmp_path / "none.txt"), "--out", str(tmp_path / "o.json")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


def test_figures_in_the_examples_protocol() -> None:
    """Eight real tokens of 20 positions, two of them wrong: the other twelve are certain."""
    found = fra_eng.in_protocol({"nll": 1.5, "token_accuracy": 0.75}, positions=20, real=8)
    assert found == {"loss": pytest.approx(8 * 1.5 / 20), "accuracy": pytest.approx(18 / 20)}


def test_the_comparison_is_shown() -> None:
    def point(seconds: float, loss: float, nll: float) -> dict[str, float]:
        figures = {"loss": loss, "nll": nll, "accuracy": 0.5, "token_accuracy": 0.25}
        return {"seconds": seconds, **figures}

    keras = [{**point(30.0 * n, 0.6 - 0.1 * n, 1.5), "padding_loss": 0.0125} for n in (1, 2)]
    keras.append({**point(90.0, 0.45, 1.4), "padding_loss": 0.0125})
    jaxgen = [
        {"seed": seed, "points": [point(5.0, 0.5, 1.6), point(8.0 + seed, 0.39, 1.45)]}
        for seed in (0, 1, 2)
    ]
    content = {"keras": keras, "jaxgen": jaxgen, "positions": 200, "real_tokens": 76}
    content |= {"dry_run": False, "command": "run it", "kind": "fra_eng", "machine": {}}
    page = report.page({"a.json": content}, [])
    (published,) = [line for line in page.splitlines() if "published for Keras" in line]
    assert [cell.strip() for cell in published.split("|")[2:-1]] == [
        *("0.4358", "60.0", "8.0, 9.0, 10.0", "6.7")
    ]
    (honest,) = [line for line in page.splitlines() if "here, real tokens" in line]
    assert "not reached, not reached, not reached" in honest
    (best,) = [line for line in page.splitlines() if line.startswith("| Keras, best epoch")]
    assert [cell.strip() for cell in best.split("|")[2:5]] == ["2", "60.0", "0.4000"]
    assert "0.0125" in best
    assert "38% of them" in page


@pytest.mark.slow
def test_a_trial_of_addition_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "addition.json"
    arguments = ["--dry-run", "--contestants", "jaxgen", "Flax", "--out", str(out)]
    assert addition.main(arguments) == 0
    found = results.read(out)
    assert [run["name"] for run in found["runs"]] == ["jaxgen", "Flax"]
    for run in found["runs"]:
        first, last = run["points"]
        assert 0 < first["seconds"] < last["seconds"]
        assert 0 < first["steps"] < last["steps"]
        assert all(0 <= point["exact_match"] < 0.99 for point in run["points"])
    assert str(tmp_path) not in json.dumps(found)
    assert "a trial, no result" in report.page({out.name: found}, [])


@pytest.mark.slow
@pytest.mark.peers("keras", "tensorflow")
def test_a_trial_of_translation_is_recorded(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "fra_eng.json"
    assert fra_eng.main([str(pairs), "--dry-run", "--seeds", "0", "1", "--out", str(out)]) == 0
    found = results.read(out)
    assert (len(found["keras"]), [run["seed"] for run in found["jaxgen"]]) == (2, [0, 1])
    share = found["real_tokens"] / found["positions"]
    for run in found["jaxgen"]:
        for point in run["points"]:
            assert point["loss"] == pytest.approx(share * point["nll"])
    for point in found["keras"]:  # two ways of measuring: Keras's own, and from probabilities
        assert point["loss"] == pytest.approx(
            share * point["nll"] + point["padding_loss"], rel=1e-4
        )
    assert str(tmp_path) not in json.dumps(found)
    assert "a trial, no result" in report.page({out.name: found}, [])


@pytest.mark.slow
@pytest.mark.peers("keras", "tensorflow")
def test_the_keras_examples_arrays(tmp_path: Path) -> None:
    """Hand-worked: questions reversed with their blanks, targets one step ahead."""
    from benchmarks.peers.keras_addition import CHARACTERS, KerasAddition
    from benchmarks.peers.keras_translation import KerasTranslation

    (path := tmp_path / "pairs.json").write_text(json.dumps([["1+2", "35+61"], ["3", "96"]]))
    keras = KerasAddition(str(path), 2, units=4)
    shown = ["".join(CHARACTERS[i] for i in row) for row in keras.x.argmax(-1).tolist()]
    assert shown == ["  2+1", "16+53"]
    assert ["".join(CHARACTERS[i] for i in row) for row in keras.y.argmax(-1)] == ["3  ", "96 "]
    assert keras.advance()["steps"] == 1
    assert all(len(answer) <= 3 for answer in keras.answers(["1+2", "35+61"]))

    path.write_text(json.dumps([["a", "bc"], ["xy", "z"]]))
    translation = KerasTranslation(str(path), 1, units=4)
    characters = "\t\n xyz"
    read = ["".join(characters[i] for i in row) for row in translation.x[1].argmax(-1)]
    written = ["".join(characters[i] for i in row) for row in translation.y.argmax(-1)]
    assert (read, written) == (["\txy\n", "\tz\n "], ["xy\n ", "z\n  "])
