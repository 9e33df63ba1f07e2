"""Several classifiers as one: the mean of their probabilities, in Python and the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_classifier_task import settings, write_reviews
from tiny_classifier import tiny_classifier

import jaxgen
from jaxgen.cli import main
from jaxgen.errors import UserError
from jaxgen.experiment import evaluate, load, train
from jaxgen.prediction.classifier import Classifier
from jaxgen.tasks.classifier_ensemble import ensemble_classifier

pytestmark = pytest.mark.slow

NAMES = ("art", "money", "sport")
TEXTS = ["a good b", "bad dull c d e f", "fine"]


def members(count: int = 3, names: Any = NAMES, **options: Any) -> list[Classifier]:
    """Classifiers of one shape with different parameters."""
    first = tiny_classifier(names, **options)
    found = [first]
    for seed in range(1, count):
        random = np.random.default_rng(seed)
        params = jax.tree.map(
            lambda x, random=random: random.normal(0, 2, x.shape).astype(np.float32), first.params
        )
        found.append(replace(first, params=params))
    return found


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("weights", [None, (3.0, 0.0, 1.0)])
def test_probabilities_are_the_mean_of_the_members(multi_label: bool, weights: Any) -> None:
    models = members(multi_label=multi_label)
    found = ensemble_classifier(models, weights).probabilities(TEXTS)
    each = np.stack([model.probabilities(TEXTS) for model in models])
    wanted = np.average(each, axis=0, weights=weights)
    assert np.abs(each - wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_product_is_of_powers_and_sums_to_one(multi_label: bool) -> None:
    models, weights = members(2, multi_label=multi_label), np.array([2.0, -0.5])
    found = ensemble_classifier(models, weights, "product").probabilities(TEXTS)
    each = np.stack([model.probabilities(TEXTS) for model in models])
    yes = (each ** weights[:, None, None]).prod(axis=0)
    no = ((1 - each) ** weights[:, None, None]).prod(axis=0)
    wanted = yes / (yes + no if multi_label else yes.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_classifiers_of_different_shapes_join_too() -> None:
    """One reads the other's texts through another function, with parameters of its own."""
    first, second = members(2)

    @jax.jit
    def halved(params: Any, tokens: Any, lengths: Any) -> Any:
        return first.apply(params["inner"], tokens, lengths) / 2

    other = replace(second, apply=halved, params={"inner": second.params})
    found = ensemble_classifier([first, other]).probabilities(TEXTS)
    wanted = first.probabilities(TEXTS) + second.probabilities(TEXTS, temperature=2.0)
    np.testing.assert_allclose(found, wanted / 2, rtol=0, atol=1e-6)


def test_other_weights_compile_nothing() -> None:
    models = members()
    first, second = (ensemble_classifier(models, weights) for weights in ((1, 1, 1), (1, 2, 3)))
    assert first.apply is second.apply
    first.predict("a good b")
    compiled = first.apply._cache_size()  # type: ignore[attr-defined]
    second.predict("a good b")
    assert second.apply._cache_size() == compiled  # type: ignore[attr-defined]


def test_an_explanation_weighs_the_words_of_the_ensemble() -> None:
    ensemble = ensemble_classifier(members())
    explained = ensemble.explain("good bad", label="art")
    whole, without = ensemble.probabilities(["good bad", "bad"])[:, 0]
    odds = np.log(whole / (1 - whole)) - np.log(without / (1 - without))
    assert explained.weights[0] == pytest.approx(odds, abs=1e-4)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"names": ("art", "sport", "war")}, "the same labels, got art, money, sport and art"),
        ({"max_length": 8}, "must have the same data.max_length, got 32 and 8"),
        ({"letters_only": True}, "must have the same data.letters_only, got False and True"),
        ({"masking": False}, "must have the same model.masking"),
    ],
)
def test_classifiers_that_read_texts_otherwise_are_refused(other: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ensemble_classifier([tiny_classifier(NAMES), tiny_classifier(**{"names": NAMES, **other})])


def test_another_tokenizer_of_the_same_size_is_refused() -> None:
    first, second = members(2)
    text = first.tokenizer.backend.to_str().replace('"good"', '"odds"')
    other = replace(second, tokenizer=type(first.tokenizer).from_text(text))
    assert other.tokenizer.vocab_size == first.tokenizer.vocab_size
    with pytest.raises(UserError, match="must have the same tokenizer"):
        ensemble_classifier([first, other])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1.0, -1.0), "`weights` of an average must be 0 or more, got -1"),
        ((0.0, 0.0), "`weights` must not all be 0"),
        ((1.0, float("nan")), "`weights` must be finite"),
        ((1.0, 2.0, 3.0), "one number for each of the 2 models"),
    ],
)
def test_bad_weights_are_refused(weights: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ensemble_classifier(members(2), weights)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of two seeds; do not write into it."""
    folder = tmp_path_factory.mktemp("seeds")
    experiment = settings(write_reviews(folder), training={"max_steps": 4})
    train(experiment, out=folder / "seeds", seeds=2)
    return folder / "seeds"


def test_a_directory_of_seeds_is_one_model(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the film was good 1", "the film was bad 2"]
    each = [load(seeds / name).probabilities(texts) for name in ("seed-0", "seed-1")]
    ensemble = jaxgen.load_ensemble(seeds)
    np.testing.assert_allclose(ensemble.probabilities(texts), np.mean(each, 0), rtol=0, atol=1e-6)
    # A run named twice is one model; with weights it has the sum of its own.
    again = jaxgen.load_ensemble([seeds / "seed-1", seeds, seeds / "seed-1"])
    np.testing.assert_allclose(again.probabilities(texts), np.mean(each, 0), rtol=0, atol=1e-6)
    again = jaxgen.load_ensemble([seeds, seeds / "seed-1"], weights=[1, 1])
    wanted = 0.25 * each[0] + 0.75 * each[1]
    np.testing.assert_allclose(again.probabilities(texts), wanted, rtol=0, atol=1e-6)

    figures = evaluate(seeds, ensemble=True)
    assert figures["examples"] == 6
    assert main(["evaluate", str(seeds), "--ensemble", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] == pytest.approx(figures["nll"])
    assert main(["predict", str(seeds), "--ensemble", "--json", texts[0]]) == 0
    shown = json.loads(capsys.readouterr().out)["probabilities"]
    assert shown["pos"] == pytest.approx(np.mean(each, 0)[0, 1], abs=1e-6)


def test_what_is_no_ensemble_is_refused(seeds: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs two models or more, got .*seed-0; name a direct"):
        jaxgen.load_ensemble([seeds / "seed-0", seeds / "seed-0"])
    with pytest.raises(UserError, match="one number for each of the 2 paths"):
        jaxgen.load_ensemble([seeds, seeds / "seed-0"], weights=[1])
    with pytest.raises(UserError, match="does not exist"):
        jaxgen.load_ensemble([seeds, tmp_path / "missing"])
