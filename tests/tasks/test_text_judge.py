"""Judges of texts: their scores and features one text at a time, and what they learn."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.frechet import frechet_distance
from jaxgen.models.language_model import LanguageModel
from jaxgen.tasks.language_model import init_params
from jaxgen.tasks.text_judge import TextJudge, train_judge


@pytest.fixture(scope="module")
def judge() -> TextJudge:
    """An untrained judge of 3 tokens."""
    model = LanguageModel(4, 5, embedding_size=2, dropout=0.5)
    return TextJudge(model, init_params(model, jax.random.key(0)), 0.0)


def test_scores_and_features_are_those_of_texts_alone(judge: TextJudge) -> None:
    """By a step after the other, from a zero carry and the start token, without dropout."""
    texts: list[list[int]] = [[2, 0, 1], [1], [], [0, 0]]
    step = jax.jit(partial(judge.model.apply, {"params": judge.params}, method="hidden_states"))
    nats, features = [], np.zeros((4, 5))
    for row, text in enumerate(texts):
        carry, hidden = step(np.array([[3]]), judge.model.initial_carry(1))
        outputs = []
        for token in text:
            logits = np.asarray(hidden[0, 0] @ judge.params["output_kernel"], np.float64)
            logits += np.asarray(judge.params["output_bias"])
            nats.append(np.log(np.exp(logits).sum()) - logits[token])
            carry, hidden = step(np.array([[token]]), carry)
            outputs.append(hidden[0, 0])
        if text:
            features[row] = np.mean(outputs, axis=0)
    # What stands in the padding does not matter, though it be no token.
    rows = np.array([[*text, *[9] * (3 - len(text))] for text in texts])
    lengths = np.array([len(text) for text in texts])
    assert judge.nll(rows, lengths) == pytest.approx(np.mean(nats), rel=1e-5)
    np.testing.assert_allclose(judge.features(rows, lengths), features, rtol=1e-4, atol=1e-6)
    assert np.isnan(judge.nll(rows[2:3], lengths[2:3]))


def draw_texts(seed: int, shift: int) -> np.ndarray:
    """Each token is that before it plus the shift, modulo 6, from any on: log(6) / 8 nats each."""
    starts = np.random.default_rng(seed).integers(6, size=(200, 1))
    return (starts + shift * np.arange(8)) % 6


@pytest.mark.slow
def test_what_a_judge_learns() -> None:
    """Scores near the entropy of the texts it knows, and far from others; so do features."""
    real, fake = draw_texts(0, 1), draw_texts(1, 5)
    told: list[str] = []
    sizes: dict[str, Any] = {"epochs": 30, "batch_size": 20, "hidden_size": 16, "dropout": 0.0}
    first = train_judge(real, None, 6, learning_rate=0.02, progress=told.append, **sizes)
    assert len(told) == 30
    assert told[-1].startswith("epoch 30: ")
    entropy = np.log(6) / 8
    assert entropy * 0.9 < first.nll(draw_texts(2, 1)) < entropy + 0.05
    assert entropy * 0.8 < first.held_out_nll < entropy + 0.1
    assert first.nll(fake) > 2
    near, far = (first.features(texts) for texts in (draw_texts(2, 1), fake))
    known = first.features(real)
    assert 10 * frechet_distance(known, near) < frechet_distance(known, far)
    again = train_judge(real, None, 6, learning_rate=0.02, **sizes)
    assert again.held_out_nll == first.held_out_nll
    assert again.nll(fake) == first.nll(fake)


@pytest.mark.slow
def test_the_best_parameters_are_kept() -> None:
    """With a rate at which it gets worse, those of the epoch that fits held-out texts best."""
    told: list[str] = []
    random = np.random.default_rng(0).integers(6, size=(40, 8))
    judge = train_judge(
        random, None, 6, epochs=6, hidden_size=16, learning_rate=0.3, progress=told.append
    )
    shown = [float(line.split()[2]) for line in told]
    assert judge.held_out_nll == pytest.approx(min(shown), abs=5e-4)
    assert shown[-1] > min(shown)


@pytest.mark.parametrize(
    ("tokens", "lengths", "options", "message"),
    [
        (np.zeros((9, 3), int), None, {}, "at least 10 texts.*got 9; give more"),
        (np.full((12, 3), 4), None, {}, r"must be in \[0, 3\), got 4"),
        (np.full((12, 3), -1), None, {}, r"must be in \[0, 3\), got -1"),
        (np.zeros((12, 3)), None, {}, r"got float64\[12, 3\]"),
        (np.zeros(12, int), None, {}, r"got int64\[12\]"),
        (np.zeros((12, 3), int), np.full(12, 4), {}, r"one number in \[0, 3\] for each of the 12"),
        (np.zeros((12, 3), int), np.full(11, 3), {}, r"one number in \[0, 3\] for each of the 12"),
        (np.zeros((12, 3), int), None, {"epochs": 0}, "`epochs` must be at least 1, got 0"),
    ],
)
def test_bad_input(tokens: Any, lengths: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_judge(tokens, lengths, 3, **options)
