"""Train steps, samplers and the kernel compile for TPU v5e and v6e; skipped without libtpu.

Nothing runs: libtpu compiles ahead of time on any machine.
"""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu_compiled
from benchmarks.cases import Case
from jaxgen.ops.lstm import LSTMCarry, lstm

needs_libtpu = pytest.mark.skipif(
    not tpu_compiled.available(), reason="needs libtpu (pip install 'jaxgen[tpu]')"
)
CHIPS = tuple(tpu_compiled.TOPOLOGIES)


@needs_libtpu
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("dtype", "backend"), [("float32", "scan"), ("bfloat16", "pallas")])
def test_a_train_chunk_compiles(chip, dtype, backend):
    case = Case(B=8, T=16, H=128, E=32, L=2)
    row = tpu_compiled.describe(chip, "train", case, dtype, backend)
    # The state is donated: what comes out lies where it came in, but for the metrics.
    assert 0 < row["compiled"]["alias"] <= row["compiled"]["output"]
    assert row["compiled"]["kernels"] == (4 if backend == "pallas" else 0)  # 2 layers, both ways


@needs_libtpu
@pytest.mark.parametrize("chip", CHIPS)
def test_a_sampler_compiles(chip):
    row = tpu_compiled.describe(chip, "sampler", Case(B=4, T=16, H=128), "bfloat16", "scan")
    assert row["compiled"]["temp"] >= 0


@needs_libtpu
@pytest.mark.parametrize(
    ("chip", "B", "T", "H", "dtype", "flagged"),
    [
        ("v5e", 8, 64, 512, jnp.float32, False),
        ("v5e", 64, 32, 1024, jnp.float32, True),
        ("v6e", 20, 35, 768, jnp.bfloat16, True),
        ("v6e", 64, 64, 1024, jnp.bfloat16, False),
    ],
)
def test_the_kernel_compiles_at_real_sizes(chip, B, T, H, dtype, flagged):
    def gradients(pre_activations, kernel, carry, flags):
        def scalar(pre_activations, kernel, carry):
            _, outputs = lstm(
                pre_activations, kernel, carry, mask=flags, resets=flags, backend="pallas"
            )
            return outputs.astype(jnp.float32).sum()

        return jax.grad(scalar, (0, 1, 2))(pre_activations, kernel, carry)

    shape = jax.ShapeDtypeStruct
    compiled = tpu_compiled.compile_for(
        chip,
        gradients,
        shape((T, B, 4 * H), dtype),
        shape((H, 4 * H), dtype),
        LSTMCarry(shape((B, H), jnp.float32), shape((B, H), dtype)),
        shape((T, B), bool) if flagged else None,
    )
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2


@needs_libtpu
@pytest.mark.parametrize("chip", CHIPS)
def test_xla_keeps_the_matrix_of_its_loop_in_vmem(chip):
    """What `jaxgen.ops.tpu.XLA_SHARE` stands on: a kernel spares no traffic at these sizes."""
    row = tpu_compiled.describe(chip, "train", Case(B=16, T=32, H=512), "bfloat16", "scan")
    assert row["compiled"]["of_those_in_vmem"] == row["compiled"]["recurrent_matrices_of_loops"] > 0


def test_bounds_are_closed_forms_over_published_peaks(monkeypatch):
    class V5e:
        device_kind = "TPU v5 lite"

    monkeypatch.setattr(tpu_compiled, "device", lambda chip: V5e)
    cost = tpu_compiled.costs.Cost(flops=197e12, traffic=2 * 819e9, weights=0.0)
    model = tpu_compiled.modelled(cost, "v5e", tokens=10)
    assert (model["seconds_products"], model["seconds_bytes"]) == (1.0, 2.0)
    assert model["bound_by"] == "bytes"
    assert (model["tokens_per_second_at_most"], model["tokens_per_second_at_roofline"]) == (10, 5)
