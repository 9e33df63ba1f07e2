"""What is measured on: device, versions, flags, git revision, and the machine's own ceilings.

`python -m benchmarks.machine` prints it.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.worker import ROOT, peak_resident

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "keras", "tensorflow")
FLAGS = ("XLA_FLAGS", "JAX_PLATFORMS", "OMP_NUM_THREADS", "JAX_DEFAULT_MATMUL_PRECISION")


def description() -> dict[str, Any]:
    """Device, versions, flags, git revision, load and date, as JSON values."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": processor_name() if device.platform == "cpu" else device.device_kind,
        "num_devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions(),
        "flags": {name: os.environ[name] for name in FLAGS if os.environ.get(name)},
        "git": git_revision(),
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }


def processor_name() -> str:
    """The processor as Linux names it, else as Python does."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Short hash of HEAD, with `+` where tracked files differ from it; `unknown` outside git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_peak() -> dict[str, int]:
    """Most bytes of the accelerator in use so far, as `peak_bytes`; of a CPU nothing is known."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}


def growth(function: Callable[[], Any]) -> int:
    """Most bytes that a call of host code held beyond what there was before.

    The larger of what Python and NumPy asked for (a heap that is warm need not grow) and what the
    process's resident memory grew by (libraries in Rust and C++), where Linux lets that mark be
    set back.
    """
    mark = Path("/proc/self/clear_refs")
    tracemalloc.start()
    try:
        mark.write_text("5")
        before = peak_resident()
    except OSError:
        before = None
    function()
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return traced if before is None else max(traced, peak_resident() - before)


def fastest(function: Callable[[], Any], repeats: int = 15) -> float:
    """Seconds of the fastest call: a ceiling is the best ever seen, not the usual."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def matmul_ceiling(dtype: Any, size: int) -> float:
    """FLOP/s of a square (size, size) matmul, several in one program."""
    trips = 8
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        weight = x / size
        return jax.lax.fori_loop(0, trips, lambda _, y: y @ weight, x)

    seconds = fastest(lambda: chain(x).block_until_ready())
    return trips * 2 * size**3 / seconds


def read_ceiling(num_bytes: int) -> float:
    """Bytes per second at which a float32 matrix of `num_bytes` is read, again and again.

    A matrix-vector product in a loop, as at the batch of 1 of a sampler. On a CPU also NumPy's
    dot product, whichever is faster: the ceiling is the machine's, not XLA's.
    """
    size = int((num_bytes / 4) ** 0.5)
    trips = max(4, int(2e8 // num_bytes))
    matrix = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5

    @jax.jit
    def power(matrix: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, trips, lambda _, v: matrix @ v, jnp.ones(size))

    seconds = [fastest(lambda: power(matrix).block_until_ready())]
    if jax.devices()[0].platform == "cpu":
        x, y = (
            np.asarray(matrix).reshape(2, -1) if size % 2 == 0 else np.ones((2, size * size // 2))
        )
        x, y = x.astype(np.float32), y.astype(np.float32)
        seconds.append(fastest(lambda: [np.dot(x, y) for _ in range(trips)]))
    return trips * 4 * size * size / min(seconds)


def copy_ceiling(num_bytes: int) -> float:
    """Bytes per second of a copy, counting those read and those written."""
    trips = max(4, int(2e8 // num_bytes))
    x = jnp.ones(num_bytes // 8, jnp.float32)  # source and result together: num_bytes

    @jax.jit
    def copies(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, trips, lambda _, y: y + 1, x)

    seconds = [fastest(lambda: copies(x).block_until_ready())]
    if jax.devices()[0].platform == "cpu":
        source, target = np.ones(x.shape, np.float32), np.empty(x.shape, np.float32)
        seconds.append(fastest(lambda: [np.copyto(target, source) for _ in range(trips)]))
    return trips * num_bytes / min(seconds)


def ceilings(quick: bool = False) -> dict[str, Any]:
    """Measured ceilings: `matmul` FLOP/s by type, `read` and `copy` bytes/s by level.

    The levels are sizes: `cache_small` 1 MiB (a core's second-level cache), `cache_large` 8 MiB
    (the last level), `memory` 512 MiB.
    """
    cpu = jax.devices()[0].platform == "cpu"
    size = 1024 if cpu else 8192
    sizes = {"cache_small": 2**20, "cache_large": 2**23, "memory": 2**27 if quick else 2**29}
    return {
        "matmul": {
            "float32": matmul_ceiling(jnp.float32, size),
            "bfloat16": matmul_ceiling(jnp.bfloat16, size),
        },
        "read": {level: read_ceiling(num_bytes) for level, num_bytes in sizes.items()},
        "copy": {level: copy_ceiling(num_bytes) for level, num_bytes in sizes.items()},
    }


if __name__ == "__main__":
    print(json.dumps({"machine": description(), "ceilings": ceilings()}, indent=2))
