"""Which backend is chosen for which problem, where, and what is said of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.models.language_model import LanguageModel, prefill_fn_of
from jaxgen.nn.lstm import LSTM
from jaxgen.ops import tpu
from jaxgen.ops.backends import (
    Platform,
    RecurrenceSpec,
    choose_backend,
    compiling_for,
    platform_here,
)
from jaxgen.ops.lstm import lstm, zero_carry

CPU, CUDA, ROCM = Platform("cpu"), Platform("cuda", "NVIDIA H100"), Platform("rocm", "MI300")
V5E, V6E = Platform("tpu", "TPU v5 lite"), Platform("tpu", "TPU v6 lite")
PLAIN = RecurrenceSpec(T=64, B=16, H=512)


@pytest.mark.parametrize(
    ("platform", "changes", "name", "reason"),
    [
        (CPU, {}, "scan", "only backend for cpu"),
        (ROCM, {}, "scan", "only backend for rocm"),
        (CUDA, {}, "scan", "measured faster than cuDNN"),
        (CUDA, {"dtype": jnp.bfloat16, "mask": True}, "scan", "measured faster than cuDNN"),
        (V5E, {}, "scan", "XLA keeps the 2 MiB of recurrent matrix in VMEM itself"),
        (V5E, {"H": 500}, "scan", "multiple of 128 units, got H=500"),
        (V5E, {"H": 3072, "dtype": jnp.bfloat16}, "scan", "not been measured on a TPU"),
        (V6E, {"H": 3072, "dtype": jnp.bfloat16, "mask": True}, "scan", 'try backend="pallas"'),
        (V5E, {"H": 3072, "dtype": jnp.bfloat16, "B": 1024}, "scan", "products hide"),
        (V6E, {"H": 4096, "dtype": jnp.bfloat16}, "scan", "does not fit 128 MiB of VMEM"),
        (V6E, {"H": 3072}, "scan", "does not fit"),
        (Platform("tpu", "TPU v9"), {"H": 2048}, "scan", "does not fit 16 MiB"),
    ],
)
def test_the_automatic_choice_and_its_reason(platform, changes, name, reason):
    choice = choose_backend("auto", PLAIN._replace(**changes), platform)
    assert choice.name == name
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("backend", "platform", "changes", "message"),
    [
        ("cudnn", CPU, {}, 'needs an NVIDIA GPU, and the platform is cpu; use backend="auto"'),
        ("cudnn", CUDA, {"dtype": jnp.bfloat16}, "float32 only, and the type is bfloat16"),
        ("cudnn", CUDA, {"mask": True}, "no mask"),
        ("cudnn", CUDA, {"mask": True, "resets": True}, "no mask and no resets"),
        ("cudnn", CUDA, {"conditioned": True}, "bias of each row's own"),
        ("cudnn", CUDA, {"cell": "layernorm_lstm"}, "no layernorm_lstm cell"),
        ("cudnn", CUDA, {"projected": True}, "jaxgen.nn.LSTM"),
        ("cudnn", CUDA, {"resets": True}, "no resets.*chooses scan here"),
        ("pallas", CPU, {}, "needs a TPU, and the platform is cpu"),
        ("pallas", CUDA, {}, "needs a TPU.*chooses scan here"),
        ("pallas", V5E, {"H": 100}, "got H=100"),
        ("pallas", V5E, {"cell": "layernorm_lstm"}, "no layernorm_lstm cell"),
        ("pallas", V5E, {"dtype": jnp.float16}, "not float16"),
        ("flash", CPU, {}, "must be one of auto, scan, cudnn, pallas, got 'flash'"),
    ],
)
def test_a_backend_that_cannot_run_is_an_error_with_a_way_out(backend, platform, changes, message):
    with pytest.raises(UserError, match=message):
        choose_backend(backend, PLAIN._replace(**changes), platform)


@pytest.mark.parametrize("chip", [*tpu.CHIPS, "TPU v9"])
def test_a_kernel_that_was_never_measured_is_never_the_automatic_choice(chip):
    """Where it fits and is modelled faster, it is named in the reason and may be asked for."""
    advised = []
    for B, H in ((8, 512), (16, 2048), (16, 3072)):
        spec = PLAIN._replace(B=B, H=H, dtype=jnp.bfloat16)
        choice = choose_backend("auto", spec, Platform("tpu", chip))
        assert choice.name == "scan"
        if 'backend="pallas"' in choice.reason:
            advised.append(H)
            asked = choose_backend("pallas", spec, Platform("tpu", chip))
            assert asked == ("pallas", "asked for")
    assert advised == ([3072] if tpu.chip_of(chip).vmem == 128 * 2**20 else [])


@pytest.mark.parametrize("platform", [CPU, CUDA, V5E])
def test_what_is_asked_for_is_run_where_it_can(platform):
    assert choose_backend("scan", PLAIN, platform).name == "scan"
    if platform is not CPU:
        name = {CUDA: "cudnn", V5E: "pallas"}[platform]
        assert choose_backend(name, PLAIN, platform) == (name, "asked for")


def test_compiling_for_another_platform_ends_with_its_block():
    assert platform_here().name == "cpu"
    with compiling_for("tpu", "TPU v6 lite"):
        assert platform_here() == V6E
    assert platform_here().name == "cpu"


def test_operations_and_modules_refuse_what_they_cannot_run():
    pre_activations, kernel = jnp.zeros((2, 1, 16)), jnp.zeros((4, 16))
    with pytest.raises(UserError, match="the platform is cpu"):
        lstm(pre_activations, kernel, zero_carry(1, 4), backend="pallas")
    with pytest.raises(UserError, match="the platform is cpu"):
        LSTM((4,), backend="cudnn").init(jax.random.key(0), jnp.zeros((1, 2, 3)))
    layernorm = LSTM((4,), cell="layernorm_lstm", backend="pallas")
    with pytest.raises(UserError, match="pallas"):
        layernorm.init(jax.random.key(0), jnp.zeros((1, 2, 3)))


def test_a_prompt_is_read_where_the_training_backend_cannot_run():
    settings = {"vocab_size": 5, "hidden_size": 4}
    tokens, mask = jnp.asarray([[1, 2]]), jnp.asarray([[True, False]])
    model = LanguageModel(**settings)
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    prefill = prefill_fn_of(LanguageModel(**settings, backend="cudnn"))
    _, logits = prefill(params, model.initial_carry(1), tokens, mask)
    np.testing.assert_array_equal(logits, model.apply({"params": params}, tokens, mask=mask)[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("B", [1, 8, 20, 64, 1000])
@pytest.mark.parametrize("T", [1, 35, 127, 1024])
def test_blocks_cover_all_steps_and_rows_and_fit(T, B, dtype):
    chip = tpu.CHIPS["TPU v5 lite"]
    for H in (128, 768, 1024):
        blocks = tpu.plan_blocks(T, B, H, dtype, chip)
        assert T % blocks.steps == 0
        assert B % blocks.rows == 0
        assert blocks.rows == B or blocks.rows % tpu.SUBLANES == 0
        assert blocks.vmem < chip.vmem


def test_blocks_by_hand():
    """The pre-activations, activations, `c`, `h` twice and flags of 32 steps, double-buffered."""
    step = 2 * 16 * 4 * (4 * 512 + 4 * 512 + 512 + 2 * 512 + 128)
    scratch = 16 * 16 * 4 * 512 * 4
    matrix = 512 * 4 * 512 * 4
    blocks = tpu.plan_blocks(64, 16, 512, jnp.float32, tpu.CHIPS["TPU v5 lite"])
    assert blocks == (16, 32, matrix + 32 * step + scratch)


def test_the_ridge_is_where_a_step_reads_as_long_as_it_multiplies():
    chip = tpu.CHIPS["TPU v5 lite"]
    B, H = round(chip.ridge(2)), 1024
    assert B == 241  # 197 TFLOP/s over 819 GB/s, two bytes a number
    multiplies = 2 * B * H * 4 * H / chip.flops
    reads = 2 * H * 4 * H / chip.bandwidth
    assert multiplies == pytest.approx(reads, rel=0.01)


def test_the_model_counts_the_matrix_once_or_at_every_step():
    chip = tpu.CHIPS["TPU v5 lite"]
    scan, kernel = (
        tpu.modelled_seconds(64, 16, 3072, jnp.bfloat16, chip, kernel=k) for k in (False, True)
    )
    matrix = 4 * 3072**2 * 2 / chip.bandwidth
    assert scan["bytes"] - kernel["bytes"] == pytest.approx(63 * matrix)
    assert scan["products"] == kernel["products"] == 2 * 64 * 16 * 3072 * 4 * 3072 / chip.flops
