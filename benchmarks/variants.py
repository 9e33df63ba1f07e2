"""Ways to cut the launches of a scan on a GPU: XLA's flags, and unrolling, each a contestant."""

import functools
import os
from typing import Any

GRAPH = "--xla_gpu_enable_command_buffer=+WHILE,+DYNAMIC_SLICE_FUSION"
FLAGS = {
    "command buffers": GRAPH,
    "command buffers unrolled": f"{GRAPH} --xla_gpu_command_buffer_unroll_loops=true",
    "double buffered": ("--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"),
}
UNROLL = 8


def variants() -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Suffix of the name, options of the contestant, and environment of its process."""
    given = os.environ.get("XLA_FLAGS", "")
    flagged = [
        (f", {name}", {}, {"XLA_FLAGS": f"{given} {f}".strip()}) for name, f in FLAGS.items()
    ]
    return [("", {}, {}), *flagged, (f", unroll {UNROLL}", {"unroll": UNROLL}, {})]


def unroll_scans(by: int) -> None:
    """Let every `jax.lax.scan` of this process unroll: a trial of what jaxgen could do itself."""
    import jax

    if by > 1:
        jax.lax.scan = functools.partial(jax.lax.scan, unroll=by)
