"""The grids of the suite: what `--grid quick` and `--grid full` measure."""

from typing import NamedTuple

from benchmarks.cases import Case

BASE = Case(B=32, T=64, H=256)
DTYPES = ("float32", "bfloat16")


class Entry(NamedTuple):
    """One row of the suite."""

    case: Case
    dtype: str = "float32"
    """Compute type."""
    backend: str = "auto"
    """Backend of the recurrence, as `jaxgen.ops.backends` names it."""
    devices: int = 1
    """Devices the batch is divided over: on a CPU, host devices."""

    @property
    def label(self) -> str:
        parts = [self.case.name, self.dtype if self.dtype != "float32" else ""]
        parts += [self.backend if self.backend != "auto" else ""]
        parts += [f"{self.devices} devices" if self.devices > 1 else ""]
        return " ".join(filter(None, parts))

    @property
    def shape(self) -> dict[str, object]:
        """What a result row says of it."""
        own = {"dtype": self.dtype, "backend": self.backend, "devices": self.devices}
        return {**self.case.as_dict(), **own}


def training(profile: str) -> list[Entry]:
    """Train steps: B, T, H, L, V, type, backend and devices, one at a time.

    A backend that the device lacks, or that is its automatic choice anyway, skips its row.
    """
    backends = [Entry(BASE, backend=backend) for backend in ("scan", "cudnn", "pallas")]
    if profile == "quick":
        cases = [Case(B=50, T=50, H=128), BASE]
        cases += [Case(B=B, T=64, H=256) for B in (8, 128)]
        cases += [Case(B=32, T=T, H=256) for T in (16, 256)]
        cases += [Case(B=32, T=64, H=H) for H in (64, 128, 512)]
        cases += [Case(B=32, T=64, H=256, L=2), Case(B=32, T=32, H=256, V=10_000, E=256)]
        entries = [Entry(case) for case in cases] + [Entry(BASE, "bfloat16"), *backends]
        return entries + [Entry(case, devices=2) for case in cases[:9]]
    headline = Case(B=16, T=1024, H=768)
    cases = [BASE, headline, Case(B=50, T=50, H=128)]
    cases += [Case(B=B, T=64, H=256) for B in (1, 8, 128, 512, 2048)]
    cases += [Case(B=32, T=T, H=256) for T in (16, 256, 1024)]
    cases += [Case(B=32, T=64, H=H) for H in (64, 128, 512, 768, 1024, 2048)]
    cases += [Case(B=32, T=64, H=256, L=L) for L in (2, 4)]
    cases += [Case(B=32, T=64, H=512, V=V, E=512) for V in (1_000, 10_000, 33_000)]
    backends += [entry._replace(case=headline) for entry in backends]
    entries = [Entry(case, dtype) for case in cases for dtype in DTYPES]
    return backends + entries + [Entry(case, devices=2) for case in cases[:8]]


def sampling(profile: str) -> list[Entry]:
    """Sampler steps; T is the number of tokens of one call."""
    if profile == "quick":
        cases = [Case(B=B, T=100, H=128, L=2) for B in (1, 16, 64, 256)]
        cases += [Case(B=B, T=50, H=512, L=2) for B in (1, 64)]
        cases += [Case(B=1, T=50, H=512, V=33_000)]
        return [Entry(case) for case in cases] + [Entry(cases[2], "bfloat16")]
    cases = [Case(B=B, T=200, H=128, L=2) for B in (1, 64, 1024, 16384, 4, 16, 256, 4096)]
    cases += [Case(B=B, T=100, H=H, L=2) for H in (256, 512, 1024) for B in (1, 64, 1024)]
    cases += [Case(B=B, T=50, H=512, V=33_000) for B in (1, 64, 256)]
    return [Entry(case, dtype) for case in cases for dtype in DTYPES]


def evaluation(profile: str) -> list[Entry]:
    """Perplexity of a text: B rows read side by side, T tokens at once."""
    cases = [Case(B=16, T=64, H=128), Case(B=16, T=64, H=512)]
    return [Entry(case) for case in cases[: 1 if profile == "quick" else None]]
