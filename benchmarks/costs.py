"""Closed-form FLOPs and bytes: train and sampler step of a language model, classifier epochs.

Only matrix products count as FLOPs (2 a multiply-add); the gates' elementwise work, under 2 % at
these sizes, does not. XLA's own cost analysis counts the body of a loop once however often it
runs, which for a recurrence is wrong by a factor of about T; `traced_flops` counts the products
in a function's jaxpr instead, each times the trips of the scans around it, and the tests hold the
closed forms to it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.cases import Case
from benchmarks.classifier_cases import ClassifierCase

FLOAT = 4
ONE_HOT_ROWS = 512
"""Up to this vocabulary a table's gradient is a matmul (`jaxgen.ops.lookup`), else a scatter."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of one step.

    Attributes:
        flops: of the matrix products.
        traffic: bytes of arrays that must be read or written at least once, wherever they lie.
        weights: bytes of recurrent weights read again at every time step (from cache, if they
            fit; `traffic` counts them once).
        matrix: bytes of the recurrent weights, which say from where they are read again.
    """

    flops: float
    traffic: float
    weights: float = 0.0
    matrix: float = 0.0

    @property
    def intensity(self) -> float:
        """FLOPs a byte of traffic, the roofline's abscissa."""
        return self.flops / (self.traffic + self.weights)


def itemsize(dtype: str) -> int:
    """Bytes of a number of a compute type."""
    return {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]


def parameter_count(case: Case) -> int:
    """Numbers in the model, one bias a layer."""
    layers = sum(4 * case.H * (case.input_size(layer) + case.H + 1) for layer in range(case.L))
    return layers + case.H * case.V + case.V + case.V * case.E


def train_step(case: Case, *, folded: bool = True, itemsize: int = FLOAT) -> Cost:
    """One optimizer step: forward, backward, clipping, Adam.

    Args:
        case: shapes.
        folded: the first layer's input projection is a table of V rows, as jaxgen does it, and
            not a matmul over all steps, as the peers do.
        itemsize: bytes of a number in the compute type; parameters and logits are float32.
    """
    tokens, gates = case.B * case.T, 4 * case.H
    flops = 3 * _products(case) + first_layer(case, folded)
    params = parameter_count(case)
    optimizer = (4 + 4) * params  # reads p, g, m, v twice over (norm, update); writes g, p, m, v
    # Per layer: input gates in; activations, c and h out; all read back; d_gates out and in twice.
    activations = case.L * tokens * (2 * gates + 2 * (gates + 2 * case.H) + 3 * gates)
    logits = tokens * (2 * case.H + 4 * case.V)
    traffic = FLOAT * (optimizer + logits) + itemsize * activations
    matrix = itemsize * case.L * case.H * gates
    return Cost(flops, traffic, (2 * case.T - 2) * matrix, matrix)


def evaluation(case: Case, *, itemsize: int = FLOAT) -> Cost:
    """The loss of B rows of T tokens: forward only, folded."""
    tokens, gates = case.B * case.T, 4 * case.H
    flops = _products(case)
    if case.E:
        flops += 2 * min(tokens, case.V) * case.E * gates
    activations = case.L * tokens * (2 * gates + 2 * case.H)
    logits = tokens * (2 * case.H + 2 * case.V)
    traffic = FLOAT * (parameter_count(case) + logits) + itemsize * activations
    matrix = itemsize * case.L * case.H * gates
    return Cost(flops, traffic, (case.T - 1) * matrix, matrix)


def recurrence(case: Case, times: int, *, itemsize: int = FLOAT) -> Cost:
    """One layer on dense inputs of E numbers: forward (`times` 1), or with its backward (3)."""
    tokens, gates = case.B * case.T, 4 * case.H
    matrix = itemsize * case.H * gates
    traffic = itemsize * times * (tokens * (case.E + case.H + 2 * gates) + case.E * gates)
    again = (1 if times == 1 else 2) * (case.T - 1) * matrix
    return Cost(times * 2 * tokens * (case.E + case.H) * gates, traffic + matrix, again, matrix)


def _products(case: Case) -> float:
    """FLOPs of a forward pass without the first layer's input projection."""
    tokens, gates = case.B * case.T, 4 * case.H
    layers = 2 * tokens * case.H * gates * (2 * case.L - 1)
    return layers + 2 * tokens * case.H * case.V


def first_layer(case: Case, folded: bool) -> float:
    """FLOPs of the first layer's input projection, forward and backward."""
    tokens, gates = case.B * case.T, 4 * case.H
    scatter = 2 * tokens * case.V * gates if case.V <= ONE_HOT_ROWS else 0
    if folded and not case.E:
        return scatter
    if folded and tokens >= case.V:
        return 3 * 2 * case.V * case.E * gates + scatter
    products = 3 if case.E else 2  # one-hot inputs need no gradient
    through = products * 2 * tokens * case.input_size(0) * gates
    embedding = 2 * tokens * case.V * case.E if case.E and case.V <= ONE_HOT_ROWS else 0
    return through + embedding


def sampler_step(case: Case, *, folded: bool = True, itemsize: int = FLOAT) -> Cost:
    """One token for each of B rows: every weight is read once, whatever B is."""
    gates = 4 * case.H
    products = case.L * case.H * gates + (case.L - 1) * case.H * gates + case.H * case.V
    table = 0
    if not folded:
        products += case.input_size(0) * gates
    else:
        table = case.B * gates
    rows = case.B * (4 * case.L * case.H + 2 * case.V)
    return Cost(2 * case.B * products, itemsize * (products + table) + FLOAT * rows)


def classifier(case: ClassifierCase, *, train: bool = True) -> Cost:
    """All batches of a classifier's plan, padding and all: train steps, or forward passes."""
    each = [_classifier_batch(case, length, train) for length, _ in case.plan]
    total = [sum(getattr(cost, name) for cost in each) for name in ("flops", "traffic", "weights")]
    return Cost(*total, FLOAT * case.H * 4 * case.H)


def _classifier_batch(case: ClassifierCase, length: int, train: bool) -> Cost:
    tokens, gates, times = case.B * length, 4 * case.H, 3 if train else 1
    layer = Case(B=case.B, T=length, H=case.H, V=case.V, E=case.E)
    inputs = 2 * min(tokens, case.V) * case.E * gates
    if train:
        inputs = first_layer(layer, folded=True)
    recurrence = times * 2 * tokens * case.H * gates
    head = times * 2 * case.B * case.features
    own = gates * (case.E + case.H + 1)
    params = case.V * case.E + case.directions * own + case.features + 1
    matrix = FLOAT * case.H * gates
    if train:  # as in `train_step`
        traffic = 8 * params + case.directions * tokens * (2 * gates + 2 * (gates + 2 * case.H))
        traffic += case.directions * tokens * 3 * gates
        again = (2 * length - 2) * matrix
    else:
        traffic = case.directions * (own + tokens * (2 * gates + 2 * case.H)) + tokens * case.E
        again = (length - 1) * matrix
    flops = case.directions * (inputs + recurrence) + head
    return Cost(flops, FLOAT * traffic, case.directions * again, matrix)


def floor_seconds(cost: Cost, ceilings: dict[str, Any], *, dtype: str = "float32") -> float:
    """The least time the machine's measured ceilings allow: the larger of products and reads."""
    speeds = ceilings["read"]
    reads = cost.traffic / speeds[memory_level(cost.traffic)]
    reads += cost.weights / speeds[memory_level(cost.matrix)]
    return max(cost.flops / ceilings["matmul"][dtype], reads)


def figures(
    cost: Cost, amount: float, seconds: float, ceilings: dict[str, Any], dtype: str = "float32"
) -> dict[str, float]:
    """What a row says of a step: rates, and shares of the machine's ceilings.

    Args:
        cost: of one step.
        amount: tokens (or characters) of one step.
        seconds: of one step.
        ceilings: `machine.ceilings()`.
        dtype: compute type.
    """
    floor = floor_seconds(cost, ceilings, dtype=dtype)
    return {
        "tokens_per_second": amount / seconds,
        "flops_per_second": cost.flops / seconds,
        "bytes_per_second": (cost.traffic + cost.weights) / seconds,
        "share_of_matmul": cost.flops / seconds / ceilings["matmul"][dtype],
        "intensity": cost.intensity,
        "floor_seconds": floor,
        "share_of_floor": floor / seconds,
    }


def memory_level(num_bytes: float) -> str:
    """The level of `machine.ceilings` that a working set of this size is served from."""
    if num_bytes <= 2**20:
        return "cache_small"
    return "cache_large" if num_bytes <= 2**24 else "memory"


def traced_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of all matrix products in a function, scan bodies times their trip count.

    Raises:
        ValueError: a `while` loop contains products: its trip count is not known.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product_flops(equation)
            continue
        inner = sum(_jaxpr_flops(sub) for sub in _sub_jaxprs(equation.params))
        if equation.primitive.name == "while" and inner:
            raise ValueError("a `while` loop has no known trip count; count its body instead")
        total += inner * equation.params.get("length", 1)
    return total


def _product_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, right = (operand.aval.shape for operand in equation.invars)
    if len(left) == 1 or len(right) == 1:
        return 0.0  # a sum over rows, written as a product with ones: `jaxgen.ops.bias`
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def _sub_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found


def compiled_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """XLA's own count of one call, loop bodies once."""
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    if isinstance(analysis, list):
        analysis = analysis[0]
    return float(analysis.get("flops", math.nan))


def compiled_bytes(compiled: Any) -> int | None:
    """Most memory of a compiled program by XLA's accounting: arguments, results, temporaries."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes
