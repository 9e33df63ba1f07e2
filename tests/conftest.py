"""How every test runs: on the CPU, with annotations checked, strict dtypes and fatal warnings.

Warnings are made errors in pyproject.toml. A test marked ``peers`` names the libraries it compares
with, ``@pytest.mark.peers("torch", "transformers")``, and is skipped where one is missing.
"""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing here may reach for the network; a hub test patches what it needs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time here goes to compiling programs that run once, so they are compiled fast; the
# fusion emitters, which cost half of it, cannot be left out from JAX 0.11 on. Two stages of .ci/run
# compile as users do: XLA_FLAGS='' make test.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * (int(version("jax").split(".")[1]) < 11),
)

if find_spec("filelock"):
    # Programs compiled by one test, or test run, are read back by the next, and by the processes
    # that tests start. The size limit is what makes JAX lock the cache, so that parallel workers
    # never read a half-written entry.
    cache = Path(__file__).parents[1] / ".pytest_cache" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Two host devices, so that data parallelism is tested on any machine.
jax.config.update("jax_num_cpu_devices", 2)

if find_spec("jaxtyping") and find_spec("beartype"):
    from jaxtyping import install_import_hook

    # Every package that holds arrays; beartype cannot read pydantic's `Self`, which config needs.
    packages = (
        *("data", "evaluation", "generation", "models", "nn", "ops", "prediction"),
        *("tasks", "training"),
    )
    install_import_hook([f"jaxgen.{package}" for package in packages], "beartype.beartype")

if find_spec("hypothesis"):
    from hypothesis import settings

    # A machine that is busy with other work must not fail a test.
    settings.register_profile("jaxgen", deadline=None)
    settings.load_profile("jaxgen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the comparisons whose peer is not installed."""
    for item in items:
        for marker in item.iter_markers("peers"):
            missing = [name for name in marker.args or ("torch",) if find_spec(name) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))
