"""Rows of figures, and GANs beside curves of MLE, worked by hand."""

from typing import Any

import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.gan_figures import best_temperature, mean_row, sample_figures
from jaxgen.evaluation.gan_verdict import PLANES, compare, joined, plane_of, sentences, verdict

# Quality falls and diversity rises with the temperature: BLEU-5, Self-BLEU-5.
CURVE = {0.5: (0.5, 0.9), 1.0: (0.3, 0.5), 1.5: (0.1, 0.3)}


def row(bleu: float, self_bleu: float, **other: float) -> dict[str, Any]:
    return {"bleu_5": bleu, "self_bleu_5": self_bleu, **other}


def run(bleu: float, self_bleu: float) -> dict[str, Any]:
    sweep = [row(*at, temperature=t, fed=abs(t - 1)) for t, at in CURVE.items()]
    return {
        "gan": row(bleu, self_bleu, temperature=1.0),
        "mle": sweep[1],
        "train": row(0.35, 0.6),
        "mle_sweep": sweep,
    }


def test_figures_of_samples() -> None:
    samples = [["a", "b", "c"], ["a", "b"]]
    found = sample_figures(samples, [["a", "b", "c"]])
    assert list(found) == [
        *(f"bleu_{n}" for n in (2, 3, 4, 5)),
        *(f"self_bleu_{n}" for n in (2, 3, 4, 5)),
        "distinct_2",
    ]
    # The second is 2 tokens beside 3: exp(-1/2).
    assert found["bleu_2"] == pytest.approx((1 + 0.60653) / 2, abs=1e-5)
    assert found["self_bleu_2"] == pytest.approx(((2 / 3 / 2) ** 0.5 + 0.60653) / 2, abs=1e-5)
    assert found["distinct_2"] == pytest.approx(2 / 3)


def test_rows_of_several_seeds() -> None:
    """Means of what every seed has; deviations divide by N - 1."""
    rows = [
        {"bleu_5": 0.1, "lm": 2.0, "fed": 1.0, "temperature": 0.5},
        {"bleu_5": 0.4, "lm": float("nan"), "fed": None, "temperature": 0.5},
    ]
    assert mean_row(rows) == {
        "bleu_5": pytest.approx(0.25),
        "temperature": 0.5,
        "seeds": 2,
        "deviation": {"bleu_5": pytest.approx(0.3 / 2**0.5), "temperature": 0.0},
    }
    assert mean_row(rows[:1]) == {**rows[0], "seeds": 1}


def test_the_best_temperature() -> None:
    """By the first figure that all rows have."""
    rows: list[dict[str, Any]] = [
        {"bleu_5": 0.5, "self_bleu_5": 0.9, "nll_oracle": 5.0, "nll_test": 9.0, "rlm": 4.0},
        {"bleu_5": 0.3, "self_bleu_5": 0.4, "nll_oracle": 8.0, "nll_test": 7.0, "rlm": 2.0},
        {"bleu_5": 0.2, "self_bleu_5": 0.2, "nll_oracle": 9.0, "nll_test": 6.0, "rlm": 3.0},
    ]
    found = []
    for name in ("fed", "rlm", "nll_test", "bleu_5"):
        found.append(best_temperature(rows) if name != "fed" else None)
        rows = [{k: v for k, v in x.items() if k != name} for x in rows]
    assert found == [None, 1, 0, 2]
    with pytest.raises(UserError, match=r"needs rows that all have one of fed, rlm.*got 3 rows"):
        best_temperature(rows)
    fed = [{"fed": 2.0, "rlm": 1.0}, {"fed": 1.0, "rlm": 2.0}]
    assert best_temperature(fed) == 1


def test_planes() -> None:
    by_ngrams = {"bleu_2": 0.5, "self_bleu_2": 0.5, "bleu_3": 0.5, "self_bleu_3": None}
    assert plane_of([by_ngrams]).quality.name == "bleu_2"
    likelihoods = {"nll_oracle": 9.0, "nll_test": 7.0}
    assert plane_of([by_ngrams | likelihoods]).diversity.name == "nll_test"
    with pytest.raises(UserError, match="compared with MLE by nll_oracle and nll_test, or by"):
        plane_of([by_ngrams, likelihoods])


@pytest.mark.parametrize(
    ("at", "difference", "temperature", "dominated", "dominates"),
    [
        ((0.4, 0.8), 0.1, 0.75, False, False),  # MLE has 0.7 between 0.9 and 0.5
        ((0.4, 0.7), 0.0, 0.75, False, False),
        ((0.3, 0.4), -0.1, 1.0, False, True),
        ((0.3, 0.6), 0.1, 1.0, True, False),
        ((0.15, 0.35), 0.0, 1.375, False, False),
        ((0.6, 0.95), None, None, False, False),  # better than any temperature
        ((0.6, 0.9), None, None, False, True),
        ((0.05, 0.3), None, None, True, False),
        ((0.05, 0.2), None, None, False, False),
    ],
)
def test_one_gan_beside_the_curve(
    at: tuple[float, float],
    difference: float | None,
    temperature: float | None,
    dominated: bool,
    dominates: bool,
) -> None:
    given = run(*at)
    found = compare(given["gan"], given["mle_sweep"], PLANES[1])
    approximately = [None if x is None else pytest.approx(x) for x in (difference, temperature)]
    assert [*found] == [*approximately, dominated, dominates]


def test_of_several_temperatures_of_one_quality_the_most_diverse_counts() -> None:
    sweep = [
        {"nll_oracle": q, "nll_test": d, "temperature": t}
        for q, d, t in ((6.0, 9.0, 0.5), (8.0, 7.0, 1.0), (8.0, 6.5, 1.1), (7.0, 8.0, 1.5))
    ]
    found = compare({"nll_oracle": 8.0, "nll_test": 6.0}, sweep, PLANES[0])
    assert found.difference == pytest.approx(-0.5)
    assert found.temperature == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("gans", "outcome", "difference"),
    [
        ([(0.3, 0.51)], "loses", 0.01),
        ([(0.3, 0.49)], "beyond", -0.01),
        ([(0.3, 0.5)], "on", 0.0),
        # A mean of 0.02 and a deviation of 0.0141: two standard errors are 0.02.
        ([(0.3, 0.531), (0.3, 0.511)], "loses", 0.021),
        ([(0.3, 0.529), (0.3, 0.509)], "on", 0.019),
        ([(0.3, 0.469), (0.3, 0.489)], "beyond", -0.021),
        ([(0.3, 0.471), (0.3, 0.491)], "on", -0.019),
        ([(0.3, 0.4), (0.6, 0.95)], "undecided", None),
        ([(0.05, 0.4), (0.3, 0.6)], "loses", None),
        ([(0.6, 0.8), (0.3, 0.4)], "beyond", None),
    ],
)
def test_verdicts(gans: list, outcome: str, difference: float | None) -> None:
    found = verdict([run(*gan) for gan in gans])
    assert found["outcome"] == outcome
    assert found["difference"] == (None if difference is None else pytest.approx(difference))
    assert [found[name] for name in ("quality", "diversity")] == ["bleu_5", "self_bleu_5"]
    assert found["seeds"] == len(gans)


def test_the_figures_of_all_seeds() -> None:
    found = joined([run(0.3, 0.6), run(0.4, 0.8)])
    assert found["gan"]["self_bleu_5"] == pytest.approx(0.7)
    assert found["gan"]["deviation"]["self_bleu_5"] == pytest.approx(0.2 / 2**0.5)
    assert [x["temperature"] for x in found["mle_sweep"]] == [0.5, 1.0, 1.5]
    assert found["mle_best"] == found["mle_sweep"][1] == found["mle"]
    assert found["verdict"]["deviation"] == pytest.approx(0)
    assert found["verdict"]["temperature"] == pytest.approx(0.875)
    assert "gan_sweep" not in found


@pytest.mark.parametrize(
    ("gans", "words"),
    [
        (
            [(0.4, 0.8)],
            "The GAN loses against MLE: its Self-BLEU-5 is 0.1000 higher than that of MLE at "
            "temperature 0.75, which has the same BLEU-5 (of one seed, so that chance may be all "
            "of it).|Its BLEU-5 and its Self-BLEU-5 are both above those of real text, which is a "
            "sign of collapse, not of quality.",
        ),
        (
            [(0.3, 0.4), (0.3, 0.46)],
            "The GAN is better than MLE: its Self-BLEU-5 is 0.0700 lower than that of MLE at "
            "temperature 1.00, which has the same BLEU-5 (with a standard deviation of 0.0424 over "
            "2 seeds).",
        ),
        (
            [(0.6, 0.95), (0.3, 0.4)],
            "Undecided: none of the temperatures of MLE has the BLEU-5 of the GAN in every seed; "
            "measure lower or higher ones.|Its BLEU-5 and its Self-BLEU-5 are both above those of "
            "real text, which is a sign of collapse, not of quality.",
        ),
        ([(0.05, 0.4)], "The GAN loses against MLE in both BLEU-5 and Self-BLEU-5."),
    ],
)
def test_words(gans: list, words: str) -> None:
    assert "|".join(sentences(joined([run(*gan) for gan in gans]))) == words


def test_a_worse_frechet_distance_is_said_of_a_gan_that_seems_better() -> None:
    better = run(0.3, 0.4)
    better["gan"]["fed"] = 0.25
    assert sentences(joined([better]))[1:] == [
        "By the Fréchet distance it loses: 0.2500, that of MLE at temperature 1 is 0.0000."
    ]
    better["gan"]["fed"] = 0.0
    assert len(sentences(joined([better]))) == 1
