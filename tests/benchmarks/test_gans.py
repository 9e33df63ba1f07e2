"""Every contestant trains the same text GAN: the same losses, scores and returns."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare_gans, report, results
from benchmarks.gan_cases import GanCase
from benchmarks.jaxgen_gan import STEPS, JaxgenGan

CASE = compare_gans.SMALL


def test_a_case_survives_json() -> None:
    assert GanCase(**json.loads(json.dumps(CASE.as_dict()))) == CASE


def test_texts_are_tokens() -> None:
    texts = compare_gans.CASE.texts(0)
    assert 0 <= texts.min() <= texts.max() < compare_gans.CASE.V
    assert (texts != compare_gans.CASE.texts(1)).any()


@pytest.mark.slow
@pytest.mark.parametrize("unit", compare_gans.UNITS)
def test_jaxgen_runs_each_unit(unit: str) -> None:
    contestant = JaxgenGan(CASE.as_dict(), unit)
    before = contestant.count
    contestant.run(2)
    assert contestant.count == before + 2
    if unit in STEPS:
        assert int(contestant.state.step) == contestant.count * len(STEPS[unit])
        assert contestant.state.finite


@pytest.mark.slow
@pytest.mark.peers("torch")
def test_torch_agrees() -> None:
    """In the mean of roll-outs up to 5 standard errors of 12 texts by 4 places."""
    from benchmarks.peers.torch_gan import TorchGan

    ours = JaxgenGan(CASE.as_dict(), "returns")
    worths = []
    for batched in (True, False):
        peer = TorchGan(CASE.as_dict(), "returns", batched=batched)
        np.testing.assert_allclose(peer.figures(), ours.figures(), rtol=1e-5)
        texts = peer.roll_out(peer.texts)
        assert [tuple(x.shape) for x in texts] == [(CASE.rollouts, CASE.B, CASE.T)] * (CASE.T - 1)
        worths.append([peer.worth() for _ in range(200)])
        for unit in ("generator", "discriminator"):
            TorchGan(CASE.as_dict(), unit, batched=batched).run(2)
    expected = np.mean([ours.program(ours.params, key).mean() for key in keys(200)])
    for found in worths:
        assert abs(np.mean(found) - expected) < 5 * np.std(found) * (2 / 200) ** 0.5


def keys(count: int) -> list:
    import jax

    return list(jax.random.split(jax.random.key(1), count))


@pytest.mark.slow
@pytest.mark.peers("torch")
def test_the_command_measures_all_units(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "gans.json"
    assert compare_gans.main(["--dry-run", "--out", str(out), "--threads", "1"]) == 0
    written = results.read(out)
    assert {row["suite"] for row in written["rows"]} == set(compare_gans.UNITS.values())
    assert len(written["ratios"]) == 3 * 2 + 1 + 1
    assert "jaxgen is faster by" in capsys.readouterr().out
    assert (
        report.SECTIONS["gans"](written).count("| torch batched 1t") == len(compare_gans.UNITS) - 1
    )
