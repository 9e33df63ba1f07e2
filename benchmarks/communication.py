"""What data parallelism sends each step: the closed form, and the bytes in a compiled program.

A step sums one tree over the devices: the gradient, the loss, the weight and each of the loss's own
sums (two numbers each), all float32. A ring all-reduce of V bytes over n devices sends
2 (n - 1) / n V bytes from each, in 2 (n - 1) messages (Patarasuk and Yuan 2009).
"""

import dataclasses
import math
import re

from benchmarks.cases import Case
from benchmarks.costs import FLOAT, parameter_count, train_step

SUMS = 1
"""Sums of a language model's loss: the nll."""
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)


def step_bytes(parameters: int, sums: int = SUMS) -> int:
    """Bytes that a step sums over the devices."""
    return FLOAT * (parameters + 2 + 2 * sums)


def counted_bytes(program: str) -> list[int]:
    """Bytes of each collective in the text of a compiled program."""
    return [
        sum(
            _SIZES[kind] * math.prod(int(n) for n in shape.split(",") if n)
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found)
        )
        for found in _COLLECTIVE.findall(program)
    ]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices and what joins them, as published; nothing here is measured."""

    name: str
    devices: int
    flops: float
    """Of one device in the type of its matrix products."""
    share: float
    """Of these that an LSTM of this size may reach."""
    bandwidth: float
    """Bytes a second that each device sends while all reduce."""
    latency: float
    """Seconds a message."""
    messages: int
    """One after the other in an all-reduce."""

    def reduce_seconds(self, size: float) -> float:
        """Seconds of an all-reduce of so many bytes."""
        n = self.devices
        return 2 * (n - 1) / n * size / self.bandwidth + self.messages * self.latency


CLUSTERS = (
    # H100 SXM: 989 TFLOP/s bfloat16, NVLink 450 GB/s each way.
    Cluster("8 GPUs of one host", 8, 989e12, 0.1, 450e9, 3e-6, 2 * 7),
    # One GPU a host on 25 Gbit/s Ethernet, a ring.
    Cluster("64 hosts on Ethernet", 64, 989e12, 0.1, 25e9 / 8, 30e-6, 2 * 63),
    # TPU v5e: 197 TFLOP/s bfloat16; a 16 x 16 torus, 45 GB/s each way a link, 4 links a chip,
    # reduced along one axis and then the other, in both directions at once.
    Cluster("a v5e-256 slice", 256, 197e12, 0.1, 180e9, 1e-6, 2 * 2 * 15),
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A language model as in `configs/`."""

    name: str
    case: Case
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in the model; a tied table counts once."""
        return parameter_count(self.case) - self.tied * self.case.V * self.case.E


SHAPES = (
    Shape("char_lm", Case(B=32, T=64, H=256, L=2, E=64, V=85)),
    Shape("word_lm", Case(B=32, T=35, H=256, E=256, V=10_000), tied=True),
    Shape("wikitext2", Case(B=32, T=35, H=256, E=256, V=33_278), tied=True),
    Shape("wikitext2_gpu", Case(B=80, T=70, H=1150, L=3, E=400, V=33_278), tied=True),
)


def rows_to_pay(shape: Shape, cluster: Cluster) -> int:
    """Rows of each device at which a step computes as long as it communicates."""
    row = train_step(shape.case).flops / shape.case.B / (cluster.flops * cluster.share)
    return math.ceil(cluster.reduce_seconds(step_bytes(shape.parameters)) / row)


def table() -> list[list[str]]:
    """For each shape and cluster: MB a step, microseconds of all-reduce and of compute, rows."""
    lines = []
    for shape in SHAPES:
        size = step_bytes(shape.parameters)
        for cluster in CLUSTERS:
            compute = train_step(shape.case).flops / (cluster.flops * cluster.share)
            lines.append(
                [
                    shape.name,
                    cluster.name,
                    f"{size / 1e6:.2f}",
                    f"{cluster.reduce_seconds(size) * 1e6:,.0f}",
                    f"{compute * 1e6:,.0f}",
                    f"{rows_to_pay(shape, cluster):,}",
                ]
            )
    return lines
