"""Figures of a text GAN as tables and as a picture."""

from pathlib import Path
from typing import Any

import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.gan_plots import plot_curve
from jaxgen.evaluation.gan_tables import gan_tables
from jaxgen.evaluation.gan_verdict import joined
from jaxgen.evaluation.pictures import can_draw, check_picture


def of_seed(add: float, *, oracle: bool = False, gan_sweep: bool = False) -> dict[str, Any]:
    """Made-up figures of one seed."""

    def row(quality: float, diversity: float, **other: float) -> dict[str, Any]:
        names = ("nll_oracle", "nll_test") if oracle else ("bleu_5", "self_bleu_5")
        return dict(zip(names, (quality, diversity), strict=True)) | {"fed": 1.0} | other

    sign = -1 if oracle else 1
    sweep = [
        row(sign * (0.5 - t / 5) + 9 * oracle, 0.9 - t / 2, temperature=t) for t in (0.5, 1, 1.5)
    ]
    gan = row(sign * 0.25 + 9 * oracle, 0.4 + add, temperature=1.0, lm=3.0)
    run = {"gan": gan, "mle": sweep[1], "mle_sweep": sweep, "train": row(0.35, 0.5)}
    if oracle:
        run["train"] = {"nll_oracle": 5.75}
    return run | ({"gan_sweep": [gan]} if gan_sweep else {})


def test_tables_of_several_seeds() -> None:
    found = joined([of_seed(0.0), of_seed(0.02)])
    found |= {"text": "the test texts", "samples": 10_000, "adversarial_steps": 2000}
    blocks = [block.splitlines() for block in gan_tables(found).split("\n\n")]
    assert blocks[0] == [
        "text               the test texts",
        "samples            10,000",
        "adversarial steps  2,000",
        "seeds              2",
    ]
    assert [line.rstrip() for line in blocks[1]] == [
        "                                    BLEU-5    Self-BLEU-5",
        "GAN                          0.250 ± 0.000  0.410 ± 0.014",
        "MLE, best temperature (0.5)  0.400 ± 0.000  0.650 ± 0.000",
        "MLE, temperature 1           0.300 ± 0.000  0.400 ± 0.000",
        "training texts               0.350 ± 0.000  0.500 ± 0.000",
    ]
    assert blocks[2][0].split() == ["FED", "LM"]
    assert " ".join(blocks[2][1].split()) == "GAN 1.0000 ± 0.0000 3.000 ± 0.000"
    assert " ".join(blocks[2][-1].split()) == "training texts 1.0000 ± 0.0000 -"
    assert blocks[3][0].split() == ["BLEU-5", "Self-BLEU-5"]
    assert [line.split("  ")[0] for line in blocks[3][1:]] == [
        f"MLE, temperature {t}" for t in ("0.5", "1", "1.5")
    ]
    assert blocks[4] == [
        "The GAN loses against MLE: its Self-BLEU-5 is 0.1350 higher than that of MLE at "
        "temperature 1.25, which has the same BLEU-5 (with a standard deviation of 0.0141 over 2 "
        "seeds)."
    ]


def test_tables_of_an_oracle() -> None:
    blocks = gan_tables(joined([of_seed(0.0, oracle=True, gan_sweep=True)])).split("\n\n")
    assert blocks[0] == "seeds              1"
    rows = [" ".join(line.split()) for line in blocks[1].splitlines()]
    assert rows[0] == "NLL_test NLL_oracle FED LM"
    assert rows[-1] == "training texts - 5.750 - -"
    assert blocks[2].splitlines()[-1].startswith("GAN, temperature 1")
    assert blocks[3].startswith("The GAN loses against MLE: its NLL_test is 0.1250 higher")


@pytest.mark.skipif(not can_draw(), reason="needs matplotlib")
@pytest.mark.parametrize("oracle", [False, True])
def test_a_picture(tmp_path: Path, oracle: bool) -> None:
    from matplotlib.image import imread

    seeds = [of_seed(add, oracle=oracle, gan_sweep=oracle) for add in (0.0, 0.05)]
    path = plot_curve(tmp_path / "curve.png", joined(seeds))
    assert path == tmp_path / "curve.png"
    assert imread(path)[..., :3].std() > 0.05  # something is drawn


def test_where_no_curve_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("curve.pdf", "missing/curve.png"):
        with pytest.raises(UserError, match=f"ends in .png, in a directory that exists.*{name}"):
            check_picture(tmp_path / name, "`curve`")
    monkeypatch.setattr("jaxgen.evaluation.pictures.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`curve` needs matplotlib.*install jaxgen\[plot\]"):
        check_picture(tmp_path / "curve.png", "`curve`")
