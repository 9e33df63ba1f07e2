"""Ways to cut the launches of a scan on a GPU: XLA's flags, and unrolling, each a contestant."""

import os
from typing import Any

FLAGS = {
    "double buffered": "--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_DOUBLE_BUFFER",
}
UNROLLS = (1, 8, 16)


def variants(trials: bool) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Suffix of the name, options of the contestant, and environment of its process.

    Without `trials` only what jaxgen does by itself.
    """
    if not trials:
        return [("", {}, {})]
    given = os.environ.get("XLA_FLAGS", "")
    flagged = [
        (f", {name}", {}, {"XLA_FLAGS": f"{given} {f}".strip()}) for name, f in FLAGS.items()
    ]
    unrolled = [(f", unroll {by}", {"unroll": by}, {}) for by in UNROLLS]
    return [("", {}, {}), *flagged, *unrolled]


def unroll_scans(by: int | None) -> None:
    """Let every `jax.lax.scan` of this process unroll so, as a trial of another choice."""
    import jax

    scan = jax.lax.scan
    if by is not None:
        jax.lax.scan = lambda *args, **options: scan(*args, **{**options, "unroll": by})
