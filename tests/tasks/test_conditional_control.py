"""Measured control: what is asked of the three models, and what becomes of their answers."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_classifier import bag_of_words, table_of, with_function

from jaxgen.config import TokenizerConfig
from jaxgen.data.labelled import LabelledCorpus, LabelledTexts
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation.pictures import can_draw
from jaxgen.generation.lines import Sample
from jaxgen.generation.text import TextModel
from jaxgen.tasks import conditional_control
from jaxgen.tasks.conditional_control import control, evaluate_control, show, token_logprobs

NAMES = ("positive", "negative")
WORDS = {"positive": "good", "negative": "bad"}
CORPUS = LabelledCorpus(
    train=LabelledTexts(
        ["One two three four\nfive six seven eight GOOD", "bad film"],
        [("positive",), ("negative",)],
        "the training texts",
    ),
    test=LabelledTexts(
        ["a GOOD one", "good", "bad but good good", "a bad one"],
        [("positive",), ("positive",), ("negative",), ("negative",)],
        "the test texts",
    ),
)


@dataclass(frozen=True, eq=False)
class Writer(TextModel):
    """Writes the label's word in the first rows, as many as the strength says, and keeps calls."""

    labels: tuple[str, ...] = NAMES
    calls: list[dict[str, Any]] = field(default_factory=list)

    def sample(self, prompt: Any = "", **options: Any) -> Any:
        self.calls.append({"prompt": prompt, **options})
        word = WORDS[options["label"]]
        other = WORDS[NAMES[1 - NAMES.index(options["label"])]]
        right = round(options["guidance"] * len(prompt) / 4)
        texts = [word] * right + [other] * (len(prompt) - right)
        if options["guidance"] == 4:
            texts[:2] = ["one two three four five six seven eight good", " "]
        return [Sample(text, [1], None, finished=text != " ") for text in texts]


def writer() -> Writer:
    config = SimpleNamespace(data=SimpleNamespace(max_length=6))
    tokenizer = build_tokenizer(TokenizerConfig(kind="word"), ["abc"], lowercase=True)
    return Writer({}, config, tokenizer, letters_alike, None, no_carry)


def no_carry(params: Any, batch_size: int, condition: Any) -> Any:
    return jnp.zeros((batch_size, 1))


def letters_alike(params: Any, carry: Any, tokens: Any) -> Any:
    """Each next token is drawn from one distribution."""
    return carry, jnp.broadcast_to(params, (tokens.shape[0], params.shape[0]))


def judge() -> TextModel:
    """Gives each letter of "bad" a probability of 1/4, and to all else one of 1/8 together."""
    tokenizer = build_tokenizer(TokenizerConfig(kind="char"), ["badgo onetwhrfuivsxl"])
    params = np.full(tokenizer.vocab_size, 0.25 / (tokenizer.vocab_size - 3), np.float32)
    params[tokenizer.encode("bad")] = 0.25
    return TextModel(np.log(params), None, tokenizer, letters_alike, None, no_carry)


def classifier(names: tuple[str, ...] = ("negative", "positive"), **other: Any) -> Any:
    table = {"good": np.eye(len(names))[1], "bad": np.eye(len(names))[0]}
    return with_function(bag_of_words, table_of(table), names, **other)


def measured(lm: Writer, **options: Any) -> dict[str, Any]:
    given = {"max_new_tokens": 7, "samples": 4, "strengths": [4.0], **options}
    return control(lm, classifier(), judge(), CORPUS, "test", **given)


def test_figures_of_every_strength() -> None:
    said: list[str] = []
    figures = measured(writer(), temperature=0.5, top_p=0.9, seed=3, progress=said.append)
    assert said == [f"strength {s}, {name}" for s in (0, 1, 4) for name in NAMES]
    none, plain, strong = figures["strengths"]
    assert [row["strength"] for row in figures["strengths"]] == [0.0, 1.0, 4.0]
    assert [row["accuracy"] for row in figures["strengths"]] == [0.0, 0.25, 0.625]
    # Of the strongest, one is " ", which no label is, and one of "negative" is full of "good".
    assert strong["per_label"] == {"positive": 0.75, "negative": 0.5}
    assert (strong["empty"], strong["cut"], plain["empty"], plain["cut"]) == (2, 2, 0, 0)
    assert (strong["texts"], strong["longest_copy"], strong["copied"]) == (8, 9, 0.25)
    assert none["perplexity"] == pytest.approx(expected_perplexity(["bad", "good"]), rel=1e-5)
    assert plain["perplexity_ratio"] == pytest.approx(1.0, rel=1e-5)
    ratio = strong["perplexity"] / min(none["perplexity"], plain["perplexity"])
    assert strong["perplexity_ratio"] == pytest.approx(ratio)
    assert not strong["targets"]["copied"]
    assert figures["meeting"] == []


def expected_perplexity(texts: list[str]) -> float:
    """Of letters: 1/4 each of b, a, d; the others share 1/4."""
    others = judge().tokenizer.vocab_size - 3
    letters = "".join(texts)
    logs = [math.log(4 if letter in "bad" else 4 * others) for letter in letters]
    return math.exp(sum(logs) / len(logs))


def test_real_texts_stand_beside() -> None:
    real = measured(writer())["real"]
    # As the model reads them: in small letters. "bad but good good" is taken for positive.
    assert real["per_label"] == {"positive": 1.0, "negative": 0.5}
    assert real["accuracy"] == 0.75
    assert real["texts"] == 4
    texts = ["a good one", "good", "bad bux good good", "a bad one"]  # the judge knows no "u"
    assert real["perplexity"] == pytest.approx(expected_perplexity(texts), rel=1e-5)
    assert (real["longest_copy"], real["mean_words"]) == (1, 2.75)


def test_distinct_words_are_of_as_many_texts() -> None:
    """Of 8 samples and 6 texts in the corpus, 6 each."""
    figures = measured(writer())
    assert figures["distinct_texts"] == 6
    # one .. eight, good, bad, film, a, but: 13 of 22 words.
    assert figures["real"]["distinct_1"] == pytest.approx(13 / 22)
    assert figures["strengths"][1]["distinct_1"] == pytest.approx(2 / 6)


def test_samples_are_asked_for_in_calls_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_control, "_ROWS", 4)
    figures = measured(lm := writer(), samples=9, top_p=0.9, seed=3)
    assert all(row["texts"] == 18 for row in figures["strengths"])
    assert len(lm.calls) == 3 * 2 * 3
    assert {len(call["prompt"]) for call in lm.calls} == {3}
    same = {"prompt": [""] * 3, "temperature": 1.0, "top_p": 0.9}
    same |= {"max_new_tokens": 7, "logprobs": False}
    assert all({name: call[name] for name in same} == same for call in lm.calls)
    keys = [jax.random.key_data(call["key"]).tolist() for call in lm.calls]
    assert keys[:6] == keys[6:12] == keys[12:]  # the noise is the same at every strength
    assert len({tuple(key) for key in keys}) == 6
    assert all(call["top_p"] is None for call in calls_of(top_p=1.0))


def calls_of(**options: Any) -> list[dict[str, Any]]:
    lm = writer()
    measured(lm, **options)
    return lm.calls


def test_scores_are_those_of_texts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional_control, "_SCORED", 4)
    lm, texts = judge(), ["bad", "", "a good one", "god", "x", "dab on"]
    found = token_logprobs(texts, lm)
    assert [len(logs) for logs in found] == [3, 0, 10, 3, 1, 6]
    for text, logs in zip(texts, found, strict=True):
        np.testing.assert_allclose(logs, lm.score(text), rtol=1e-6)


def options_with(**options: Any) -> dict[str, Any]:
    return {"split": "test", "control": classifier(), "judge": judge(), **options}


@pytest.mark.skipif(not can_draw(), reason="needs matplotlib")
def test_the_curve_is_drawn(tmp_path: Path) -> None:
    given = options_with(samples=2, strengths=(2.0,), curve=tmp_path / "control.png")
    figures = evaluate_control(writer(), CORPUS, given)
    assert figures["curve"] == str(tmp_path / "control.png")
    assert (tmp_path / "control.png").stat().st_size > 1000
    assert (figures["samples"], figures["temperature"], figures["top_p"]) == (2, 1.0, 1.0)
    assert figures["max_new_tokens"] == 7  # six tokens of a text, and its end
    assert "real text" in (show(figures) or "")
    assert show({"perplexity": 3.0}) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": None}, r"got `control` \(--control\) without `judge`; give both"),
        ({"control": None}, r"got `judge` \(--judge\) without `control`; give both"),
        (
            {"control": None, "judge": None, "curve": "a.png"},
            r"got `curve` \(--curve\) without `control` and `judge`; give both",
        ),
        ({"samples": 0}, "`samples` must be at least 1 text a label, got 0"),
        ({"strengths": (1.0, -0.5)}, r"`strengths` must be finite numbers, 0 or more, got -0\.5"),
        ({"strengths": (math.inf,)}, "`strengths` must be finite numbers, 0 or more, got inf"),
        ({"strengths": (math.nan,)}, "`strengths` must be finite numbers, 0 or more, got nan"),
        ({"temperature": 0.0}, "`temperature` must be more than 0, got 0, at which all samples"),
        ({"temperature": -1.0}, "`temperature` must be"),
        ({"top_p": 1.5}, r"`top_p` must be in \(0, 1\], got 1\.5"),
        ({"split": "train"}, "that the model was not trained on, got its training texts, or other"),
        ({"curve": "a.jpg"}, r"`curve` must be a file that ends in \.png, in a directory that"),
        ({"curve": "no/where/a.png"}, "in a directory that exists, got no/where/a.png"),
        (
            {"control": classifier(("negative", "neutral"))},
            "labels of the model, positive, negative, got one of negative, neutral; name another",
        ),
        ({"control": classifier(multi_label=True)}, "gives each text one label, got one that"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    lm = writer()
    with pytest.raises(UserError, match=message):
        evaluate_control(lm, CORPUS, options_with(**options))
    assert lm.calls == []


def test_a_model_without_labels() -> None:
    lm = writer()
    object.__setattr__(lm, "labels", ())
    with pytest.raises(UserError, match="needs a model that writes texts of a label"):
        measured(lm)


def test_without_matplotlib_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxgen.evaluation.pictures.find_spec", lambda name: None)
    given = options_with(curve=tmp_path / "a.png")
    with pytest.raises(UserError, match=r"`curve` needs matplotlib, .*install jaxgen\[plot\]"):
        evaluate_control(writer(), CORPUS, given)
