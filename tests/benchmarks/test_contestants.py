"""Every contestant solves the same problem: the same losses, the same greedy tokens."""

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.cases import Case
from benchmarks.jaxgen_lm import JaxgenTraining
from benchmarks.jaxgen_sampler import JaxgenSampling
from benchmarks.worker import ROOT

pytestmark = pytest.mark.slow

CASES = [Case(B=4, T=6, H=8, V=11, L=2), Case(B=4, T=6, H=8, V=11, E=5)]
STEPS = 4


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: Any) -> dict[str, Any]:
    return request.param.as_dict()


def ours(case: dict[str, Any], **options: Any) -> list[float]:
    return JaxgenTraining(case, pool=STEPS, **options).losses(STEPS)


def test_batches_are_contiguous_streams() -> None:
    batches = Case(B=3, T=5, H=4, V=7).batches(4)
    assert batches.shape == (4, 3, 6)
    np.testing.assert_array_equal(batches[1:, :, 0], batches[:-1, :, -1])
    assert batches.min() >= 0
    assert batches.max() < 7


def test_folded_unfolded_and_divided_agree(case: dict[str, Any]) -> None:
    expected = ours(case)
    np.testing.assert_allclose(ours(case, folded=False), expected, atol=1e-5)
    np.testing.assert_allclose(ours(case, devices=2), expected, atol=1e-5)


def test_flax_agrees(case: dict[str, Any]) -> None:
    from benchmarks.peers.flax_rnn import FlaxTraining

    with jax.numpy_dtype_promotion("standard"):
        found = FlaxTraining(case, pool=STEPS).losses(STEPS)
    np.testing.assert_allclose(found, ours(case), atol=1e-5)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("mkldnn", [True, False])
def test_torch_agrees(case: dict[str, Any], mkldnn: bool) -> None:
    from benchmarks.peers.torch_lm import TorchTraining

    found = TorchTraining(case, pool=STEPS, mkldnn=mkldnn).losses(STEPS)
    np.testing.assert_allclose(found, ours(case), atol=1e-5)


def test_losses_restart_after_a_run() -> None:
    contestant = JaxgenTraining(CASES[0].as_dict(), pool=STEPS)
    before = contestant.losses(STEPS)
    contestant.run(2 * STEPS + 1)
    assert contestant.losses(STEPS) == before
    assert contestant.facts()["compile_seconds"] > 0


@pytest.mark.peers("torch")
@pytest.mark.parametrize("variant", ["lstm", "cell", "manual"])
def test_torch_samplers_agree_with_generate(case: dict[str, Any], variant: str) -> None:
    from benchmarks.peers.torch_sampler import TorchSampling

    found = TorchSampling(case, variant=variant, draw="race").greedy(12)
    assert found == JaxgenSampling(case).greedy(12)


@pytest.mark.parametrize("sampling", ["model", "temperature"])
def test_sampler_contestants_run(sampling: str) -> None:
    contestant = JaxgenSampling(CASES[0].as_dict(), sampling=sampling, inside_jit=True)
    contestant.run(2)
    assert np.asarray(contestant.call(0)).size == CASES[0].B * CASES[0].T


def test_the_suite_needs_no_more_than_jax_flax_optax_numpy() -> None:
    """Import everything the bare suite uses with the other dependencies out of reach."""
    code = """
import sys
for name in ("pydantic", "tokenizers", "datasets", "tyro", "jaxtyping", "torch",
             "safetensors", "filelock", "matplotlib", "keras", "tensorflow"):
    sys.modules[name] = None
import benchmarks.compare_sampling, benchmarks.compare_training, benchmarks.grid
import benchmarks.compare_classifiers, benchmarks.jaxgen_classifier, benchmarks.test_classifier
import benchmarks.compare_seq2seq, benchmarks.jaxgen_seq2seq, benchmarks.test_seq2seq
import benchmarks.jaxgen_lm, benchmarks.jaxgen_sampler, benchmarks.peers.flax_rnn
import benchmarks.report, benchmarks.conftest, benchmarks.test_train_step
import benchmarks.test_sampler, benchmarks.test_data, benchmarks.test_metrics
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
