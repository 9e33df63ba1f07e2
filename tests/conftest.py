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
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * (int(version("jax").split(".")[1]) < 11),
)

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

if find_spec("filelock"):
    # Programs compiled by one test, or test run, are read back by the next. The size limit is what
    # makes JAX lock the cache, so that parallel workers never read a half-written entry.
    cache = Path(__file__).parents[1] / ".pytest_cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_compilation_cache_max_size", 2**30)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


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
