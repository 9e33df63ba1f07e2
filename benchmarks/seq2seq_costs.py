"""Closed-form FLOPs and bytes of an encoder-decoder: epochs, and calls that decode.

Counted as in `benchmarks.costs`, whose parts it uses.
"""

from benchmarks.cases import Case
from benchmarks.costs import FLOAT, Cost, first_layer
from benchmarks.jaxgen_seq2seq import padded_sources
from benchmarks.seq2seq_cases import Seq2SeqCase


def epoch(case: Seq2SeqCase) -> Cost:
    """All train steps of the plan, padding and all: forward, backward, Adam."""
    return _sum([_train_step(case, len(rows), *shape) for shape, rows in case.plan], case)


def decoding(case: Seq2SeqCase) -> Cost:
    """All calls of the case: sources read, then a step a token, each reading every weight.

    The traffic is that of the encoder; the weights of a step are read at each.
    """
    costs = []
    for call in case.questions():
        source = padded_sources(case, call)[0].shape[1]
        reading = _encoder(case, case.B, source, train=False)
        tokens, gates = case.B * source, 4 * case.H
        each = case.directions * (2 * gates + 2 * case.H)
        own = case.directions * gates * (case.E + case.H + 1)
        matrix = step_bytes(case)
        flops = reading + case.new_tokens * _step(case, source)
        costs.append(Cost(flops, FLOAT * (own + tokens * each), case.new_tokens * matrix, matrix))
    return _sum(costs, case)


def step_bytes(case: Seq2SeqCase) -> float:
    """Bytes of weights that a step reads, whatever the batch: recurrent, attention, output."""
    attention = case.H * case.H if case.attention != "none" else 0
    return FLOAT * (4 * case.H * case.H + attention + case.H * case.V)


def parameter_count(case: Seq2SeqCase) -> int:
    """Numbers in the model."""
    return sum(x.size for x in case.parameters().values())


def _step(case: Seq2SeqCase, source: int) -> float:
    """FLOPs of one token of each text, the first layer's inputs folded."""
    rows = case.B * case.beams
    products = 4 * case.H * case.H + case.H * case.V
    if case.attention != "none":
        products += case.H * case.H + 2 * source * case.H
    return 2 * rows * products


def _encoder(case: Seq2SeqCase, rows: int, source: int, *, train: bool) -> float:
    """FLOPs of sources read, with what attention projects of them, and of the bridge."""
    times, tokens = 3 if train else 1, rows * source
    flops = case.directions * _layer(case, rows, source, train=train)
    if case.bidirectional:
        flops += times * 2 * 2 * rows * case.output_size * case.H
    if case.attention != "none":
        flops += times * 2 * 2 * tokens * case.output_size * case.H
    return flops


def _layer(case: Seq2SeqCase, rows: int, steps: int, *, train: bool) -> float:
    """FLOPs of one direction of one side."""
    times, tokens, gates = 3 if train else 1, rows * steps, 4 * case.H
    inputs = 2 * min(tokens, case.V) * case.E * gates
    if train:
        inputs = first_layer(Case(B=rows, T=steps, H=case.H, V=case.V, E=case.E), folded=True)
    return inputs + times * 2 * tokens * case.H * gates


def _train_step(case: Seq2SeqCase, rows: int, source: int, target: int) -> Cost:
    steps, gates = target - 1, 4 * case.H
    tokens = rows * steps
    flops = _encoder(case, rows, source, train=True) + _layer(case, rows, steps, train=True)
    if case.attention != "none":
        flops += 3 * 2 * tokens * case.H * (case.H + 2 * source)
    flops += 3 * 2 * tokens * case.H * case.V
    # As in `costs.train_step`.
    read = case.directions * rows * source + tokens
    traffic = 8 * parameter_count(case) + read * (2 * gates + 2 * (gates + 2 * case.H) + 3 * gates)
    traffic += tokens * (2 * case.H + 4 * case.V)
    again = case.directions * (2 * source - 2) + 2 * steps - 2
    matrix = FLOAT * case.H * gates
    return Cost(flops, FLOAT * traffic, again * matrix, matrix)


def _sum(costs: list[Cost], case: Seq2SeqCase) -> Cost:
    names = ("flops", "traffic", "weights")
    return Cost(*(sum(getattr(cost, name) for cost in costs) for name in names), costs[0].matrix)
