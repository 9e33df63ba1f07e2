"""The grids of the suite: what `--grid quick` and `--grid full` measure."""

from benchmarks.cases import Case

Entry = tuple[Case, str]
"""A case and its compute type."""

BASE = Case(B=32, T=64, H=256)


def training(profile: str) -> list[Entry]:
    """Train-step cases: batch, time, hidden size, layers, vocabulary and type, one at a time."""
    if profile == "quick":
        cases = [Case(B=50, T=50, H=128), BASE]
        cases += [Case(B=B, T=64, H=256) for B in (8, 128)]
        cases += [Case(B=32, T=T, H=256) for T in (16, 256)]
        cases += [Case(B=32, T=64, H=H) for H in (64, 128, 512)]
        cases += [Case(B=32, T=64, H=256, L=2), Case(B=32, T=32, H=256, V=10_000, E=256)]
        return [*((case, "float32") for case in cases), (BASE, "bfloat16")]
    cases = [Case(B=B, T=64, H=256) for B in (1, 8, 32, 128, 512, 2048)]
    cases += [Case(B=32, T=T, H=256) for T in (16, 256, 1024)]
    cases += [Case(B=32, T=64, H=H) for H in (64, 128, 512, 768, 1024, 2048)]
    cases += [Case(B=32, T=64, H=256, L=L) for L in (2, 4)]
    cases += [Case(B=32, T=64, H=512, V=V, E=512) for V in (1_000, 10_000, 33_000)]
    cases += [Case(B=16, T=1024, H=768), Case(B=50, T=50, H=128)]
    return [(case, dtype) for case in cases for dtype in ("float32", "bfloat16")]


def sampling(profile: str) -> list[Entry]:
    """Sampler cases; T is the number of tokens of one call."""
    if profile == "quick":
        cases = [Case(B=B, T=100, H=128, L=2) for B in (1, 16, 64, 256)]
        cases += [Case(B=B, T=50, H=512, L=2) for B in (1, 64)]
        cases += [Case(B=1, T=50, H=512, V=33_000)]
        return [(case, "float32") for case in cases]
    cases = [Case(B=B, T=200, H=128, L=2) for B in (1, 4, 16, 64, 256, 1024, 4096, 16384)]
    cases += [Case(B=B, T=100, H=H, L=2) for H in (256, 512, 1024) for B in (1, 64, 1024)]
    cases += [Case(B=B, T=50, H=512, V=33_000) for B in (1, 64, 256)]
    return [(case, dtype) for case in cases for dtype in ("float32", "bfloat16")]


def label(entry: Entry) -> str:
    case, dtype = entry
    return case.name if dtype == "float32" else f"{case.name} {dtype}"
