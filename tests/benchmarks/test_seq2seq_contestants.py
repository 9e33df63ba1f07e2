"""Every contestant trains and decodes with the same encoder-decoder: the same losses and tokens."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import compare_seq2seq, costs, report, results, seq2seq_cases, seq2seq_costs
from benchmarks.jaxgen_seq2seq import (
    JaxgenDecoding,
    JaxgenTexts,
    JaxgenTraining,
    bucketed,
    loss_of,
    model_of,
    padded_sources,
    params_of,
    planned,
)
from benchmarks.seq2seq_cases import BOS, EOS, FIRST, Seq2SeqCase
from jaxgen.data.pair_buckets import PairBatch
from jaxgen.models.seq2seq_decoding import initial_carry_of, step_fn_of
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import init_state, make_train_step

STEPS = 3
CASES = {
    case.title: planned(dataclasses.replace(case, **compare_seq2seq.TINY))
    for case in compare_seq2seq.CASES.values()
}
PLAIN, ATTENDING = CASES.values()
DECODING = [(batch, beams) for batch in (1, 3) for beams in (1, 5)]


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: Any) -> Seq2SeqCase:
    return request.param


def test_every_pair_is_in_the_plan_once(case: Seq2SeqCase) -> None:
    rows = [row for _, batch in case.plan for row in batch]
    assert sorted(rows) == list(range(case.pairs))
    assert len({shape for shape, _ in case.plan}) == case.buckets
    assert case.examples == case.pairs
    assert case.tokens == case.lengths().sum() + case.pairs  # each target is foretold to its end
    assert case.tokens <= case.padded


def test_the_plan_is_what_jaxgen_trains_on(case: Seq2SeqCase) -> None:
    sources, targets = case.rows()
    batches = bucketed(case, sources)
    assert batches.batches_per_epoch == len(case.plan)
    for index, (found, (shape, rows)) in enumerate(zip(case.batches(), case.plan, strict=True)):
        batch = batches.read(0, index, 1)
        assert (found[0].shape[1], found[2].shape[1]) == shape
        count = int(batch.weights.sum())
        assert count == len(rows)
        for ours, theirs in zip(batch[:4], found, strict=True):
            np.testing.assert_array_equal(ours[0, :count], theirs)
        np.testing.assert_array_equal(found[0][0, : found[1][0]], sources[rows[0]])
        np.testing.assert_array_equal(found[2][0, : found[3][0]], targets[rows[0]])


def test_targets_begin_and_end(case: Seq2SeqCase) -> None:
    sources, targets = case.rows()
    assert all(row[0] == BOS and row[-1] == EOS for row in targets)
    words = np.concatenate([*sources, *(row[1:-1] for row in targets)])
    assert FIRST <= words.min() <= words.max() < case.V


@pytest.mark.parametrize(("name", "means"), [("characters", (17, 22)), ("pieces", (14.3, 14))])
def test_lengths_are_those_of_the_data(name: str, means: tuple[float, float]) -> None:
    """Off by more than 4 deviations of the mean once in 8,000 seeds; cutting takes little off."""
    lengths = dataclasses.replace(compare_seq2seq.CASES[name], pairs=20_000).lengths()
    assert (abs(lengths.mean(axis=0) - means) < 0.2 + 4 * lengths.std(axis=0) / 20_000**0.5).all()
    assert (lengths.max(axis=0) <= compare_seq2seq.CASES[name].longest).all()


def test_a_case_survives_json(case: Seq2SeqCase) -> None:
    assert Seq2SeqCase(**json.loads(json.dumps(case.as_dict()))) == case


@pytest.mark.slow
def test_devices_agree_and_losses_restart(case: Seq2SeqCase) -> None:
    contestant = JaxgenTraining(case.as_dict())
    before = contestant.losses(STEPS)
    contestant.run(2)
    assert contestant.epoch == 2
    assert contestant.losses(STEPS) == before
    assert before[0] == pytest.approx(np.log(case.V), abs=0.5)
    found = JaxgenTraining(case.as_dict(), devices=2).losses(STEPS)
    np.testing.assert_allclose(found, before, atol=1e-5)


@pytest.mark.slow
@pytest.mark.peers("torch")
@pytest.mark.parametrize(("packed", "mkldnn"), [(True, True), (False, True), (False, False)])
def test_torch_trains_the_same(case: Seq2SeqCase, packed: bool, mkldnn: bool) -> None:
    from benchmarks.peers.torch_seq2seq import TorchTraining

    contestant = TorchTraining(case.as_dict(), packed=packed, mkldnn=mkldnn)
    expected = JaxgenTraining(case.as_dict()).losses(STEPS)
    np.testing.assert_allclose(contestant.losses(STEPS), expected, atol=1e-5)
    contestant.run(1)


@pytest.mark.slow
@pytest.mark.peers("torch")
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("batch", "beams"), DECODING)
def test_torch_decodes_the_same(
    case: Seq2SeqCase, batch: int, beams: int, ends: bool, monkeypatch: Any
) -> None:
    from benchmarks.peers.torch_translator import TorchDecoding

    if ends:
        monkeypatch.setattr(seq2seq_cases, "NEVER", 3.0)
    case = dataclasses.replace(case, B=batch, beams=beams, calls=4, new_tokens=6)
    expected = JaxgenDecoding(case.as_dict()).tokens(case.calls)
    found = TorchDecoding(case.as_dict()).tokens(case.calls)
    for ours, theirs in zip(expected, found, strict=True):
        width = len(theirs[0])  # its loop ends with the last text
        assert [row[:width] for row in ours] == theirs
        assert not np.array(ours)[:, width:].any()
    assert (EOS in np.concatenate([np.ravel(call) for call in expected])) == ends


@pytest.mark.slow
@pytest.mark.peers("keras", "tensorflow")
def test_keras_trains_and_decodes_the_same(case: Seq2SeqCase) -> None:
    from benchmarks.peers.keras_seq2seq import KerasDecoding, KerasTraining

    contestant = KerasTraining(case.as_dict())
    expected = JaxgenTraining(case.as_dict()).losses(STEPS)
    np.testing.assert_allclose(contestant.losses(STEPS), expected, atol=1e-5)
    contestant.run(1)
    case = dataclasses.replace(case, B=3)
    found = KerasDecoding(case.as_dict()).tokens(case.calls)
    assert found == JaxgenDecoding(case.as_dict()).tokens(case.calls)


@pytest.mark.slow
def test_strings_are_translated() -> None:
    case = dataclasses.replace(PLAIN, B=3, beams=1)
    contestant = JaxgenTexts(case.as_dict())
    found = np.array(contestant.tokens(case.calls))
    assert found.shape == (case.calls, case.B, case.new_tokens)


CEILINGS = {
    "matmul": {"float32": 2e11, "bfloat16": 1e11},
    **{k: {"cache_small": 1e11, "cache_large": 9e10, "memory": 3e10} for k in ("read", "copy")},
}


@pytest.mark.slow
def test_a_comparison_is_run_recorded_and_shown(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(compare_seq2seq.machine, "ceilings", lambda **_: CEILINGS)
    monkeypatch.setattr(compare_seq2seq, "installed", lambda _: False)
    out = tmp_path / "seq2seq.json"
    assert compare_seq2seq.main(["--dry-run", "--cases", "pieces", "--out", str(out)]) == 0
    found = results.read(out)
    assert all(row["examples_per_second"] > 0 for row in found["rows"])
    assert sum(row["final"] for row in found["rows"]) == 1 + 4 * 2  # one an epoch, two a call
    page = report.page({out.name: found}, [])
    for expected in ("Epochs, pieces", "Greedy decoding, pieces", "Beam search of width 5, pieces"):
        assert expected in page
    assert "the bound of a call is" in page


def test_flops_of_epochs_are_those_of_the_program(case: Seq2SeqCase) -> None:
    case = planned(dataclasses.replace(case, V=600, plan=()))  # the table's gradient is a scatter
    tx = make_optimizer(name="adam", learning_rate=1e-3)
    step = make_train_step(loss_of(model_of(case)), tx)
    state = init_state(params_of(case), tx, jax.random.key(0))
    trained = 0.0
    for batch in case.batches():
        weights = np.ones(len(batch[0]), np.float32)
        trained += costs.traced_flops(step, state, PairBatch(*map(jnp.asarray, (*batch, weights))))
    assert seq2seq_costs.epoch(case).flops == trained


def test_flops_of_decoding_are_those_of_the_program(case: Seq2SeqCase) -> None:
    case = dataclasses.replace(case, B=2, beams=1)
    model, params = model_of(case), params_of(case)
    step_fn, initial_carry = step_fn_of(model), initial_carry_of(model)
    prepared = step_fn.prepare(params)
    used = 0.0
    for call in case.questions():
        sources, lengths = map(jnp.asarray, padded_sources(case, call))
        carry = initial_carry(params, case.B, (sources, lengths))
        used += costs.traced_flops(
            lambda *call: initial_carry(params, case.B, call), sources, lengths
        )
        tokens = jnp.full((case.B,), BOS)
        each = costs.traced_flops(
            lambda carry, tokens: step_fn(prepared, carry, tokens), carry, tokens
        )
        used += case.new_tokens * each
    assert seq2seq_costs.decoding(case).flops == used
