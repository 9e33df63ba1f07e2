"""What TPU programs cost, without a TPU: `python -m benchmarks.tpu_compiled`.

The programs are compiled ahead of time by libtpu (`pip install 'jaxgen[tpu]'`) on any machine.
Memory and placement are read off the compiled program; FLOPs, bytes and the bound they imply are
modelled from closed forms and published peaks. Nothing here is measured on a TPU.
"""

import argparse
import os
import re
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import costs, results
from benchmarks.cases import Case
from benchmarks.jaxgen_lm import loss_of, model_of, params_of
from jaxgen.generation.generate import generate
from jaxgen.generation.sampling import SamplingParams
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.language_model import prefill_fn_of
from jaxgen.ops.backends import compiling_for
from jaxgen.ops.tpu import CHIPS
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.step import init_state, make_train_step, multi_step_of

TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
SOURCE = (
    "Google Cloud's pages on TPU v5e (197 TFLOP/s bfloat16, 819 GB/s) and v6e "
    "(918 TFLOP/s bfloat16, 1640 GB/s; some editions round to 800 and 1600 GB/s)"
)
EXPLANATION = """\
Compiled ahead of time by libtpu, on a machine without a TPU. Memory, and whether the recurrent
matrix that a loop carries lies in VMEM, are read off the compiled program. FLOPs, bytes and the
times they imply are closed forms over published peaks. The time of the products is a bound always;
that of the bytes, which takes every array through HBM, only where the arrays are too large for
VMEM: few temporary MiB mean that XLA keeps them on the chip."""
STEPS = 8
"""Optimizer steps of one compiled call; bounds are per step."""
NEW_TOKENS = 128
CASES = [
    Case(B=64, T=64, H=512),
    Case(B=16, T=1024, H=768),
    Case(B=32, T=70, H=1024, V=10_000, L=2, E=256),
]
VARIANTS = [("float32", "scan"), ("bfloat16", "scan"), ("bfloat16", "pallas")]
SAMPLERS = [Case(B=1, T=NEW_TOKENS, H=512), Case(B=64, T=NEW_TOKENS, H=1024, V=256, L=2)]


def available() -> bool:
    """Whether libtpu is installed."""
    return find_spec("libtpu") is not None


def device(chip: str) -> Any:
    """One device of a chip that need not be there, to compile for."""
    # No TPU is looked for, and none is locked: these programs are never run.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return topologies.get_topology_desc(TOPOLOGIES[chip], platform="tpu").devices[0]


def compile_for(chip: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Compile a function for a chip; the arguments may be shapes.

    `function` must be new to JAX, which would else give the program traced before.
    """
    target = device(chip)
    with compiling_for("tpu", target.device_kind):
        placed = jax.sharding.SingleDeviceSharding(target)
        jitted = jax.jit(function, in_shardings=placed, out_shardings=placed, **options)
        return jitted.lower(*arguments).compile()


def train_steps(case: Case, dtype: str, backend: str) -> tuple[Callable[..., Any], tuple]:
    """Several optimizer steps in one call, and the shapes of its arguments."""
    model = model_of(case, dtype)
    tx = make_optimizer(name="adam", learning_rate=case.learning_rate, clip_norm=case.clip_norm)

    def start() -> Any:
        carry = model.initial_carry(case.B)
        params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        return init_state(params, tx, jax.random.key(0), carry=carry)

    batches = {"tokens": jax.ShapeDtypeStruct((STEPS, case.B, case.T + 1), jnp.int32)}
    multi_step = multi_step_of(make_train_step(loss_of(model.clone(backend=backend)), tx))
    steps = jax.ShapeDtypeStruct((), jnp.int32)
    return multi_step, (jax.eval_shape(start), batches, steps)


def sampler(case: Case, dtype: str) -> tuple[Callable[..., Any], tuple]:
    """`generate` with a prompt of 16 tokens, and the shapes of its arguments."""
    model = model_of(case, dtype)

    def run(params: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
        return generate(
            step_fn_of(model),
            params,
            model.initial_carry(case.B),
            tokens,
            None,
            key,
            SamplingParams(temperature=1.0),
            max_new_tokens=case.T,
            prefill_fn=prefill_fn_of(model),
        ).tokens

    key = jax.eval_shape(partial(jax.random.key, 0))
    prompt = jax.ShapeDtypeStruct((case.B, 16), jnp.int32)
    return run, (jax.eval_shape(partial(params_of, case)), prompt, key)


def memory(compiled: Any) -> dict[str, int]:
    """Bytes of HBM that the compiled program asks for."""
    analysis = compiled.memory_analysis()
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    return {kind: getattr(analysis, f"{kind}_size_in_bytes") for kind in kinds}


def matrices_in_vmem(compiled: Any, H: int) -> list[bool]:
    """Of each recurrent matrix that a loop carries in bfloat16, whether it lies in VMEM.

    XLA multiplies in bfloat16 by default; memory space 1 in a layout is VMEM.
    """
    shape = rf"bf16\[(?:{H},{4 * H}|{4 * H},{H})\]\{{([^}}]*)\}}"
    loops = [line for line in compiled.as_text().splitlines() if " while(" in line]
    carried = [found for line in loops for found in re.findall(shape, line.split(" while(")[0])]
    return ["S(1)" in layout for layout in carried]


def modelled(cost: costs.Cost, chip: str, tokens: int) -> dict[str, Any]:
    """What closed forms and published peaks say of one step.

    `seconds_bytes` takes every array through HBM; what fits VMEM need not go there, so the larger
    of both times is the roofline's bound for working sets beyond VMEM, and else an estimate.
    """
    peaks = CHIPS[device(chip).device_kind]
    products, moved = cost.flops / peaks.flops, cost.traffic / peaks.bandwidth
    return {
        "flops": cost.flops,
        "bytes": cost.traffic,
        "seconds_products": products,
        "seconds_bytes": moved,
        "bound_by": "products" if products > moved else "bytes",
        "tokens_per_second_at_most": tokens / products,
        "tokens_per_second_at_roofline": tokens / max(products, moved),
    }


def describe(chip: str, kind: str, case: Case, dtype: str, backend: str) -> dict[str, Any]:
    """Compile one program and model it."""
    itemsize = jnp.dtype(dtype).itemsize
    if kind == "train":
        function, arguments = train_steps(case, dtype, backend)
        cost, tokens = costs.train_step(case, itemsize=itemsize), case.B * case.T
        options = {"donate_argnums": 0}
    else:
        function, arguments = sampler(case, dtype)
        cost, tokens, options = costs.sampler_step(case, itemsize=itemsize), case.B, {}
    started = time.perf_counter()
    compiled = compile_for(chip, function, *arguments, **options)
    seconds = time.perf_counter() - started
    in_vmem = matrices_in_vmem(compiled, case.H)
    return {
        "chip": chip,
        "program": kind,
        "case": case.name,
        "dtype": dtype,
        "backend": backend,
        "compiled": {
            **memory(compiled),
            "recurrent_matrices_of_loops": len(in_vmem),
            "of_those_in_vmem": sum(in_vmem),
            "kernels": compiled.as_text().count('custom_call_target="tpu_custom_call"'),
            "compile_seconds": round(seconds, 1),
        },
        "modelled": modelled(cost, chip, tokens),
    }


def section(data: dict[str, Any]) -> str:
    """The report's part on these programs."""
    lines = []
    for row in data["programs"]:
        compiled, model = row["compiled"], row["modelled"]
        kept = f"{compiled['of_those_in_vmem']} of {compiled['recurrent_matrices_of_loops']}"
        kept = "by the kernel" if compiled["kernels"] else kept
        lines.append(
            [
                f"{row['program']} {row['case']} {row['dtype']}",
                row["chip"],
                row["backend"],
                f"{compiled['argument'] / 2**20:,.1f}",
                f"{compiled['temp'] / 2**20:,.1f}",
                kept,
                f"{model['flops'] / 1e9:,.3g}",
                f"{model['bytes'] / 2**20:,.3g}",
                f"{model['seconds_products'] * 1e6:,.3g}",
                f"{model['seconds_bytes'] * 1e6:,.3g}",
            ]
        )
    headers = ["program", "chip", "backend", "arguments MiB", "temporary MiB", "matrix in VMEM"]
    headers += ["GFLOP/step", "MiB/step", "products us/step", "bytes us/step"]
    title = "## TPU programs, compiled and modelled, not measured"
    note = f"{EXPLANATION} Source of the peaks: {data['source']}."
    return "\n\n".join([title, note, results.table(headers, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/tpu.json"))
    parser.add_argument("--quick", action="store_true", help="the first case of each kind only")
    args = parser.parse_args()
    if not available():
        raise SystemExit("libtpu is not installed; pip install 'jaxgen[tpu]'")
    count = 1 if args.quick else None
    runs = [("train", case, t, b) for case in CASES[:count] for t, b in VARIANTS]
    runs += [("sampler", case, "bfloat16", "scan") for case in SAMPLERS[:count]]
    rows = []
    for chip in TOPOLOGIES:
        for run in runs:
            rows.append(describe(chip, *run))
            print(rows[-1], flush=True)
    results.write(
        args.out, "tpu", label="compiled and modelled, not measured", source=SOURCE, programs=rows
    )
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
