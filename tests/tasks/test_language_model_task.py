"""What the language model's task makes of its settings."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.config import LanguageModelExperiment
from jaxgen.data.tokens import encode_corpus, token_counts
from jaxgen.errors import UserError
from jaxgen.ops.sampled_loss import Candidates
from jaxgen.tasks.language_model import LANGUAGE_MODEL
from jaxgen.tasks.task import tokenizer_of
from jaxgen.training.seeds import make_seed_layout
from jaxgen.training.trainable import Trainable


def experiment_of(folder: Path, **settings: dict[str, Any]) -> LanguageModelExperiment:
    documents = folder / "documents.jsonl"
    texts = [f"{n} and {n + 1} and so on. " * (2 + n % 2) for n in range(41)]
    documents.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    tiny = {"batch_size": 2, "sequence_length": 8, "max_steps": 3, "devices": 1}
    sections: dict[str, Any] = {
        "data": {"files": (documents,), **settings.pop("data", {})},
        "model": {"hidden_size": 6, **settings.pop("model", {})},
        "training": {**tiny, **settings.pop("training", {})},
        "samples": {"temperatures": ()},
    }
    return LanguageModelExperiment(**sections, **settings)


def built(folder: Path, seeds: Any = None, **settings: dict[str, Any]) -> Trainable:
    experiment = experiment_of(folder, **settings)
    data = LANGUAGE_MODEL.open_data(experiment)
    files = LANGUAGE_MODEL.fit_files(experiment, data, None)
    return LANGUAGE_MODEL.build(experiment, files, data, folder / "tokens", None, seeds=seeds)


def test_documents_start_from_a_zero_carry_where_that_is_set(tmp_path: Path) -> None:
    plain, reset = (built(tmp_path, data={"reset_documents": there}) for there in (False, True))
    assert "resets" not in plain.batches.read(0, 0, 1)
    assert reset.batches.read(0, 0, 9)["resets"].any()
    params = plain.init_state(jax.random.key(0)).params
    sums = [what.evaluation.sums(params)["nll"] for what in (plain, reset) if what.evaluation]
    assert sums[0].weight == sums[1].weight
    assert sums[0].total != sums[1].total


def test_the_order_of_the_data_has_a_seed_of_its_own(tmp_path: Path) -> None:
    first, same, other = (
        built(tmp_path, data={"seed": data}, training={"seed": training})
        for data, training in ((0, 0), (0, 1), (2, 0))
    )
    read = [what.batches.read(0, 0, 2)["tokens"] for what in (first, same, other)]
    np.testing.assert_array_equal(read[0], read[1])
    assert (read[0] != read[2]).any()
    assert first.digests == other.digests


def test_several_seeds_are_measured_side_by_side(tmp_path: Path) -> None:
    layout = make_seed_layout(2, 1)
    alone, beside = built(tmp_path), built(tmp_path, layout)
    states = [alone.init_state(jax.random.key(seed)) for seed in (0, 1)]
    stacked = layout.stack_runs(states)
    assert alone.evaluation is not None
    assert beside.evaluation is not None
    found = beside.evaluation.sums(stacked.params)["nll"]
    for index, state in enumerate(states):
        expected = alone.evaluation.sums(state.params)["nll"]
        np.testing.assert_allclose(found.total[index], expected.total, rtol=1e-6)
        assert found.weight[index] == expected.weight
    with pytest.raises(UserError, match=r"`model\.backend` must be scan .*got pallas"):
        built(tmp_path, layout, model={"backend": "pallas"})


def test_the_sampled_loss_trains_and_the_full_one_evaluates(tmp_path: Path) -> None:
    """Of a run alone and of seeds; what it draws depends on the step's key alone."""
    settings = {"training": {"loss": "sampled", "sampled_tokens": 5}}
    sampled, full = built(tmp_path, **settings), built(tmp_path)
    batch = jax.tree.map(lambda x: x[0], sampled.batches.read(0, 0, 1))
    step = jax.jit(sampled.train_step_on(None))
    state = sampled.init_state(jax.random.key(0))
    after, metrics = step(state, batch)
    again, same = step(state, batch)
    assert metrics.sums.keys() == {"sampled_nll"}
    assert float(metrics.sums["sampled_nll"].total) == float(same.sums["sampled_nll"].total)
    jax.tree.map(np.testing.assert_array_equal, after.params, again.params)
    other = step(state._replace(step=state.step + 1), batch)[1]
    assert float(metrics.loss) != float(other.loss)
    nats = float(metrics.loss)
    np.testing.assert_allclose(sampled.figures(metrics.sums)["sampled_nll"], nats, rtol=1e-6)
    assert sampled.evaluation is not None
    assert full.evaluation is not None
    found = [what.evaluation.sums(state.params)["nll"].total for what in (sampled, full)]
    assert found[0] == found[1]


def test_the_sampled_loss_draws_frequent_tokens_more_often(tmp_path: Path) -> None:
    """Ranks are those of the training text, whatever the ids; the blank is its commonest."""
    experiment = experiment_of(tmp_path, training={"loss": "sampled", "sampled_tokens": 5})
    data = LANGUAGE_MODEL.open_data(experiment)
    tokenizer = tokenizer_of(LANGUAGE_MODEL.fit_files(experiment, data, None))
    splits = encode_corpus(data, tokenizer)
    counts = token_counts(splits.train, tokenizer.vocab_size)
    ids = splits.train.read(0, len(splits.train))
    assert counts.tolist() == [int((ids == token).sum()) for token in range(len(counts))]
    candidates = Candidates.by_frequency(counts, 5)
    assert tokenizer.decode(np.asarray(candidates.tokens[:1])) == " "


def test_more_sampled_tokens_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be below the \d+ tokens of the vocabulary, got 999"):
        built(tmp_path, training={"loss": "sampled", "sampled_tokens": 999})
