"""What the language model's task makes of its settings."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.cli import main
from jaxgen.config import LanguageModelExperiment
from jaxgen.data.tokens import encode_corpus, token_counts
from jaxgen.errors import UserError
from jaxgen.experiment import evaluate, export, load, train
from jaxgen.ops.clusters import Clusters
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


def test_an_adaptive_output_puts_the_most_frequent_tokens_first(tmp_path: Path) -> None:
    model = {"output": "adaptive", "cutoffs": (5, 9), "tail_divisor": 2.0}
    experiment = experiment_of(tmp_path, model=model)
    data = LANGUAGE_MODEL.open_data(experiment)
    files = LANGUAGE_MODEL.fit_files(experiment, data, None)
    clusters = Clusters.from_text(files["clusters.json"])
    train = encode_corpus(data, tokenizer_of(files)).train
    counts = [int((train.read(0, len(train)) == token).sum()) for token in clusters.ids]
    assert min(counts[:5]) >= max(counts[5:9])
    assert min(counts[5:9]) >= max(counts[9:])
    assert clusters.cutoffs == (5, 9)
    np.testing.assert_allclose(clusters.shares[0], sum(counts[:5]) / sum(counts))
    shapes = LANGUAGE_MODEL.init_shapes(experiment, files)
    assert shapes["output"]["head_kernel"].shape == (6, 7)
    assert LANGUAGE_MODEL.facts(experiment, files)["output"] == "adaptive, cut-offs 5 9"


@pytest.mark.slow
def test_an_adaptive_model_is_trained_measured_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chosen cut-offs and a tied embedding; the nll is that of the text's log-probabilities."""
    model = {"output": "adaptive", "embedding_size": 6, "tied": True, "tail_divisor": 1.0}
    experiment = experiment_of(tmp_path, model=model)
    run = tmp_path / "run"
    train(experiment, out=run)
    export(run, tmp_path / "exported")
    lm, exported = load(run), load(tmp_path / "exported")
    assert "tail_0_kernel" not in lm.params["output"]
    found = lm.generate(["1 and", "7"], max_new_tokens=9, temperature=[0.0, 1.0], key=3)
    assert (
        exported.generate(["1 and", "7"], max_new_tokens=9, temperature=[0.0, 1.0], key=3) == found
    )
    ids = [*lm.tokenizer.encode("1 and"), *lm.tokenizer.encode("2 and so on. 3")]
    carry, expected = lm.initial_carry(lm.params, 1, None), []
    for token, target in pairwise(ids):
        carry, logprobs = lm.step_fn(lm.params, carry, jnp.asarray([token]))
        np.testing.assert_allclose(np.exp(logprobs).sum(), 1, rtol=1e-5)
        expected.append(logprobs[0, target])
    scores = lm.score("2 and so on. 3", prompt="1 and")
    np.testing.assert_allclose(scores, expected[len("1 and") - 1 :], rtol=1e-4)
    figures = evaluate(run, split="validation")
    np.testing.assert_allclose(figures["perplexity"], np.exp(figures["nll"]), rtol=1e-6)
    assert figures["perplexity"] < 2 * lm.tokenizer.vocab_size
    command = ("generate", str(run), "--max-new-tokens", "3")
    assert main([*command, "--beam-size", "2"]) == 0
    assert "note: --beam-size needs the scores of all tokens" in capsys.readouterr().err
    assert main(command) == 0
    assert "note" not in capsys.readouterr().err
