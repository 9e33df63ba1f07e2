"""`jaxgen info --environment`: versions, devices, and what is known to be wrong with them."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

LIBRARIES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "tokenizers")


class Fault(NamedTuple):
    """What some versions of a library compute wrongly."""

    library: str
    first: tuple[int, ...]
    last: tuple[int, ...]
    """Both among the affected."""
    platform: str
    cured_by: str
    """A flag of XLA that avoids it."""
    what: str


FAULTS = (
    Fault(
        "jaxlib",
        (0, 9, 1),
        (0, 10, 2),
        "cpu",
        "--xla_cpu_experimental_ynn_fusion_type=",
        "compiled products of a matrix of 3 columns and 2 or 3 rows with somewhat more than 32,768 "
        "vectors (vmap), summed or maximised at once, are wrong from vector 32,769 on (in 0.10.2 "
        "sums of their squares too); jaxgen's own losses, gradients, samplers and beams were tried "
        "and are right, functions of your own may not be",
    ),
)
"""Found by trying jaxlib 0.8.0, 0.8.3, 0.9.0 to 0.9.2, 0.10.0 to 0.10.2, 0.11.0, 0.11.2, 0.12.0
and 0.12.0.1; jax-ml/jax#39103 reports the second form."""


def environment_facts() -> dict[str, Any]:
    """Versions and devices, and the faults of these versions."""
    import jax

    from jaxgen.ops.backends import platform_here

    where = platform_here()
    versions = {name: _version(name) for name in LIBRARIES}
    facts: dict[str, Any] = {"python": platform.python_version(), **versions}
    facts["platform"] = where.name if where.device_kind is None else f"{where[0]} ({where[1]})"
    facts["devices"] = jax.device_count()
    flags = os.environ.get("XLA_FLAGS", "")
    facts["XLA_FLAGS"] = flags or "none"
    if where.name == "cpu":
        facts["bfloat16 in hardware"] = _has_bfloat16(Path("/proc/cpuinfo"))
    facts["known faults"] = known_faults(versions, where.name, flags) or "none"
    return facts


def known_faults(versions: dict[str, str | None], platform: str, flags: str) -> list[str]:
    """What is wrong with these versions on a platform, and the way out; empty where nothing is."""
    found = []
    for fault in FAULTS:
        have = _numbers(versions.get(fault.library) or "")
        if platform != fault.platform or not fault.first <= have[:3] <= fault.last:
            continue
        if fault.cured_by in flags.split():
            continue
        found.append(
            f"{fault.library} {versions[fault.library]} on a {platform.upper()}: {fault.what}; "
            f"take a version above {'.'.join(map(str, fault.last))} (Python 3.12 or newer), or set "
            f'XLA_FLAGS="{fault.cured_by}"'
        )
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _has_bfloat16(cpuinfo: Path) -> str:
    """Whether the processor multiplies bfloat16; "unknown" where Linux does not say."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return "unknown"
    return "yes" if {"avx512_bf16", "amx_bf16"} & {*words} else "no"
