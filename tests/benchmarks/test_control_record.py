"""Control over seeds: texts divided, figures of the seeds combined, recorded and shown."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import control, report, results
from jaxgen.data.labelled import LabelledTexts


def read(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def test_halves_are_disjoint_and_have_each_label_by_its_share(tmp_path: Path) -> None:
    labels = ["joy"] * 40 + ["fear"] * 10 + ["love"] * 3
    texts = LabelledTexts([f"text {n}" for n in range(53)], [(x,) for x in labels], "texts")
    first, second = map(read, control.divide(texts, 0, tmp_path / "a"))
    pairs = list(zip(texts.texts, labels, strict=True))
    assert sorted(first + second) == sorted(pairs)
    for rows in (first, second):
        counts = Counter(label for _, label in rows)
        assert (counts["joy"], counts["fear"]) == (20, 5)
        assert counts["love"] in (1, 2)
    assert read(control.divide(texts, 0, tmp_path / "b")[0]) == first
    assert read(control.divide(texts, 1, tmp_path / "c")[0]) != first


def figures(seed: int, accuracy: float, perplexity: float | None) -> dict[str, Any]:
    """Of one seed: strengths 0 and 1, the second with this accuracy and perplexity."""
    shared = dict.fromkeys(("distinct_1", "distinct_2", "mean_words"), 0.5)
    shared |= {"copied": 0.0, "longest_copy": 4, "empty": 0}

    def row(accuracy: float, perplexity: float | None) -> dict[str, Any]:
        labels = {"joy": accuracy, "fear": accuracy}
        return {"accuracy": accuracy, "perplexity": perplexity, "per_label": labels, **shared}

    ratio = None if perplexity is None else perplexity / 20
    return {
        **{"path": "/a/folder", "text": "/a/file", "labels": ["joy", "fear"], "seed": seed},
        **{"samples": 10, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 9},
        **{"distinct_texts": 20, "real": row(0.75, 22.0)},
        "strengths": [
            {"strength": 0.0, **row(0.5, 20.0), "cut": 1, "perplexity_ratio": 1.0},
            {"strength": 1.0, **row(accuracy, perplexity), "cut": 3, "perplexity_ratio": ratio},
        ],
        "meeting": [1.0] if accuracy >= 0.75 else [],
    }


def test_mean_and_deviation_over_seeds() -> None:
    found = control.summary([figures(0, 0.7, 21.0), figures(1, 0.9, 23.0)])
    first, second = found["mean"]["strengths"]
    assert (first["accuracy"], first["cut"]) == (0.5, 1)
    assert (second["accuracy"], second["perplexity"], second["cut"]) == (0.8, 22.0, 3)
    assert second["per_label"] == {"joy": 0.8, "fear": 0.8}
    deviations = found["deviation"]["strengths"][1]
    assert deviations["accuracy"] == pytest.approx(0.1 * 2**0.5)  # sqrt((0.01 + 0.01) / 1)
    assert deviations["perplexity"] == pytest.approx(2**0.5)
    assert found["deviation"]["real"]["accuracy"] == 0.0
    assert found["mean_meets"] == [1.0]
    assert found["runs_that_meet"] == [0, 1]
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert "/a/" not in json.dumps(found)


def test_what_one_seed_lacks_has_no_mean() -> None:
    found = control.summary([figures(0, 0.8, 21.0), figures(1, 0.9, None)])
    assert found["mean"]["strengths"][1]["perplexity"] is None
    assert found["deviation"]["strengths"][1]["perplexity"] is None
    assert found["mean_meets"] == []


def test_a_record_is_shown(tmp_path: Path) -> None:
    content = control.summary([figures(0, 0.7, 21.0), figures(1, 0.9, 23.0)])
    results.write(
        tmp_path / "control.json", "control", command="the command", seconds=3.0, **content
    )
    page = report.page({"control.json": results.read(tmp_path / "control.json")}, [])
    row = next(line for line in page.splitlines() if "strength 1" in line)
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[1:4] == ["0.800 ± 0.141", "22.0 ± 1.4", "1.100 ± 0.071"]
    assert cells[-1] == "1 of 2"
    for expected in ("over 2 seeds", "meet all targets at 1.", "the command"):
        assert expected in page


def test_texts_are_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options in ([], ["--dry-run", "--seeds", "0"]):
        with pytest.raises(SystemExit) as ended:
            control.main(options)
        assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--files and --judge-files are needed" in said
    assert "--seeds must be at least 1, got 0" in said
    missing = ["--files", str(tmp_path / "no.txt"), "--judge-files", str(tmp_path / "no.txt")]
    assert control.main([*missing, "--out", str(tmp_path / "a.json")]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxgen.prediction.classifier.UnreadTextWarning")
def test_the_whole_is_walked_through(tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    assert control.main(["--dry-run", "--out", str(out), "--runs", str(tmp_path / "runs")]) == 0
    found = results.read(out)
    assert [row["strength"] for row in found["mean"]["strengths"]] == [0.0, 1.0, 2.0]
    assert found["mean"]["labels"] == ["negative", "neutral", "positive"]
    assert 0 <= found["mean"]["real"]["accuracy"] <= 1
    assert found["mean"]["real"]["perplexity"] > 1
    assert str(tmp_path) not in json.dumps(found)
    assert "Measured control" in report.page({"control.json": found}, [])
