"""The records of text GANs and of Self-BLEU: what is measured is what the report shows."""

import json

import pytest

from benchmarks import gan_quality, self_bleu
from benchmarks.report import page
from benchmarks.results import read

FIGURES = {"bleu_5": 0.2, "self_bleu_5": 0.39, "nll_test": 4.991}
ROW = {**FIGURES, "temperature": 1.0, "seeds": 2, "deviation": dict.fromkeys(FIGURES, 0.004)}
VERDICT = {
    **{"outcome": "beyond", "quality": "bleu_5", "diversity": "self_bleu_5", "seeds": 2},
    **{"difference": -0.046, "deviation": 0.013, "temperature": 0.9},
}
PRINTED = {
    **{"path": "a run", "text": "a file", "samples": 9500, "adversarial_steps": 7},
    **{"gan": ROW, "mle": ROW, "mle_best": ROW, "train": ROW, "mle_sweep": [ROW]},
    "verdict": VERDICT,
}


def test_what_an_evaluation_printed_becomes_a_section(tmp_path, capsys):
    printed, out = tmp_path / "figures.json", tmp_path / "gan.json"
    printed.write_text(json.dumps(PRINTED))
    options = ["--name", "captions", "--command", "the command", "--remark", "Note."]
    assert gan_quality.main([str(printed), *options, "--out", str(out)]) == 0
    record = read(out)
    assert "path" not in record["figures"]
    text = page({"gan.json": record}, [])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["GAN", "0.200 ± 0.004", "0.390 ± 0.004", "4.991 ± 0.004"] in rows
    assert "9,500 samples. Note. The GAN is better than MLE" in text
    assert "`the command`" in text


def test_self_bleu_beside_nltk(tmp_path, capsys):
    pytest.importorskip("nltk")
    texts, out = tmp_path / "texts.txt", tmp_path / "found.json"
    texts.write_text("a cat sits on a mat\na dog sits on a mat\na dog runs\nthe cat runs on\n")
    options = ["--scored", "2", "--rounds", "1", "--out", str(out)]
    assert self_bleu.main([str(texts), *options]) == 0
    found = read(out)
    assert found["texts"] == 4
    assert found["times"]["median"] > 0
    assert "## Self-BLEU beside NLTK" in page({"found.json": found}, [])
