"""The pieces of the task of text GANs: phases, rates, temperatures, alarms, what a row is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text_gan import settings, write_lines

from jaxgen.config import TextGanExperiment
from jaxgen.data.ragged import Ragged
from jaxgen.errors import UserError
from jaxgen.models.gan_estimators import TextGan
from jaxgen.models.text_gan import GeneratorCondition, next_logits
from jaxgen.tasks.labelled import LabelledRows
from jaxgen.tasks.text_gan import TEXT_GAN, figures_of, gumbel_temperature
from jaxgen.tasks.text_gan_data import open_data
from jaxgen.tasks.text_gan_model import build_gan, init_params, tempered
from jaxgen.tasks.text_gan_quality import (
    Quality,
    harmonic_mean,
    lists_of,
    lists_of_rows,
    objective,
    some,
)
from jaxgen.training.phases import PhaseOrder
from jaxgen.types import Sum


def tiny(**sections: dict[str, Any]) -> TextGanExperiment:
    """Settings of an oracle's short texts."""
    data = {"embedded": "oracle", "oracle_vocab_size": 7, "examples": 20, "max_length": 4}
    return settings(data=data, **sections)


def built(experiment: TextGanExperiment) -> tuple[Any, TextGan]:
    data = open_data(experiment)
    files = dict(TEXT_GAN.fit_files(experiment, data, None))
    trainable = TEXT_GAN.build(experiment, files, data, Path(), None)
    return trainable, build_gan(experiment, files)


def test_phases_follow_one_another_and_rates_follow_them() -> None:
    experiment = tiny(
        adversarial={
            "estimator": "gumbel",
            "steps": 3,
            "discriminator_steps": 2,
            "discriminator_pretrain_steps": 4,
        },
        generator_optimizer={"learning_rate": 0.9, "schedule": "linear"},
        training={"epochs": 1},
    )
    trainable, _ = built(experiment)
    batches = trainable.batches
    assert (batches.batches_per_epoch, batches.total_steps) == (3, 3 + 4 + 3 * 3)
    phases = [
        int(batches.read(step // 3, step % 3, 1).phase[0, 0]) for step in range(batches.total_steps)
    ]
    assert phases == [0] * 3 + [1] * 4 + [1, 1, 2] * 3
    rates = [trainable.rates["generator_learning_rate"](step) for step in range(16)]
    np.testing.assert_allclose(rates, [0.9] * 10 + [0.6] * 3 + [0.3] * 3, rtol=1e-6)
    heat = [float(trainable.rates["temperature"](step)) for step in (0, 7, 16)]
    np.testing.assert_allclose(heat, [1.0, 1.0, 0.1], rtol=1e-6)


def test_the_logarithm_of_the_temperature_is_linear() -> None:
    config = tiny(
        adversarial={
            "estimator": "gumbel",
            "steps": 10,
            "temperature_start": 4.0,
            "temperature_end": 0.25,
        }
    ).adversarial
    order = PhaseOrder(((0, 6),), (1, 2))
    half = gumbel_temperature(config, order, jnp.int32(16))
    assert float(half) == pytest.approx(1.0, rel=1e-6)


def test_texts_of_an_oracle_begin_with_its_start_and_do_not_end() -> None:
    experiment = tiny()
    trainable, gan = built(experiment)
    batch = trainable.batches.read(0, 0, 1).batch
    assert gan.end_id is None
    assert batch.tokens.shape == (1, 8, 5)
    assert (batch.tokens[..., 0] == 0).all()
    assert (batch.lengths == 5).all()
    data = open_data(experiment)
    assert len(data.test.tokens) == 20
    assert not np.array_equal(data.test.tokens, data.train.tokens)
    np.testing.assert_array_equal(open_data(experiment).train.tokens, data.train.tokens)


def test_a_corpus_smaller_than_a_batch(tmp_path: Path) -> None:
    experiment = settings(
        data={"files": (write_lines(tmp_path),), "max_length": 4}, training={"batch_size": 100}
    )
    with pytest.raises(UserError, match=r"`training.batch_size` must be at most the 36 training"):
        built(experiment)


def test_an_oracle_of_wrong_shapes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "oracle.npz"
    np.savez(path, embedding=np.zeros((3, 2), np.float32))
    experiment = settings(data={"embedded": "oracle", "oracle": path})
    with pytest.raises(UserError, match=r"oracle.npz.*`Wo`.* is missing"):
        open_data(experiment)


def test_a_tempered_generator_divides_its_logits() -> None:
    experiment = tiny(model={"noise_size": 2})
    files = dict(TEXT_GAN.fit_files(experiment, open_data(experiment), None))
    gan = build_gan(experiment, files)
    params = jax.jit(lambda key: init_params(gan, key))(jax.random.key(0))["generator"]
    tokens = jnp.array([[1, 2, 3], [4, 5, 6]])
    condition = GeneratorCondition(None, jnp.ones((2, 2)))
    one, two = (
        np.asarray(next_logits(gan.generator, p, tokens, condition, 0))
        for p in (params, tempered(params, 0.5))
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-5, atol=1e-6)


def test_figures_are_means_of_the_steps_that_had_them() -> None:
    sums = {"nll": Sum(6.0, 3.0), "generator_loss": Sum(0.0, 0.0)}
    assert figures_of(sums) == {"nll": 2.0}


def test_the_objective_counts_quality_and_diversity() -> None:
    assert objective(tiny(), {}).name == "nll_balanced"
    assert objective(settings(), {}).name == "bleu_f1"
    assert objective(settings(adversarial={"steps": 0}), {}).name == "nll"


def test_the_harmonic_mean_is_low_where_one_of_both_is() -> None:
    assert harmonic_mean(1.0, 0.5) == pytest.approx(2 / 3)
    assert harmonic_mean(0.9, 0.0) == harmonic_mean(0.0, 0.0) == 0.0


def test_lists_are_without_start_and_end() -> None:
    rows = Ragged.from_rows([[9, 1, 2, 9], [9, 3, 4, 5]])
    assert lists_of_rows(LabelledRows(rows, None), 9) == [[1, 2], [3, 4, 5]]
    tokens = np.array([[1, 2, 9, 0], [3, 4, 5, 6]])
    assert lists_of(tokens, np.array([3, 4]), 9) == [[1, 2], [3, 4, 5, 6]]


def test_some_rows_by_chance() -> None:
    rows = LabelledRows(Ragged.from_rows([[n] for n in range(20)]), np.arange(20))
    chosen = some(rows, 5)
    np.testing.assert_array_equal(chosen.rows.ids, chosen.labels)
    assert len(set(chosen.rows.ids.tolist())) == 5
    assert len(some(rows, 100).rows) == 20


def test_collapse_sounds_an_alarm() -> None:
    real = {"self_bleu_4": 0.4, "distinct_2": 0.6}
    experiment = tiny()
    _, gan = built(experiment)
    rows = LabelledRows(Ragged.from_rows([[0, 1, 2], [0, 3, 4]]), np.zeros(2, np.int32))
    quality = Quality.of(settings(), gan, rows, rows, None)
    quality = replace(quality, real=real)
    well = {"self_bleu_4": 0.6, "distinct_2": 0.4, "bleu_f1": 0.3}
    assert quality.alarm(well) is None
    for name, value in (("self_bleu_4", 0.75), ("distinct_2", 0.2)):
        said = quality.alarm(well | {name: value})
        assert said is not None
        assert f"`{name}` of samples is {value:.3f}" in said
        assert "the best checkpoint is kept" in said
    pretraining = {"self_bleu_4": 0.9, "distinct_2": 0.1}
    assert quality.alarm(pretraining) is None
