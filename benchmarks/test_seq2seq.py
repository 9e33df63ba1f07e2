"""Suite: epochs of an encoder-decoder, and texts that it decodes, greedily and by beam search."""

import dataclasses
from typing import Any

import pytest

from benchmarks import seq2seq_costs
from benchmarks.compare_seq2seq import CHARACTERS, PIECES
from benchmarks.jaxgen_seq2seq import JaxgenDecoding, JaxgenTraining, planned
from benchmarks.seq2seq_cases import Seq2SeqCase

CASES = [dataclasses.replace(case, pairs=200, buckets=2) for case in (CHARACTERS, PIECES)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_epoch(case: Seq2SeqCase, measure: Any) -> None:
    """Pairs a second of training, batches cut and padded on the way."""
    pytest.importorskip("pydantic", reason="batches of pairs are cut by the package's settings")
    case = planned(case)
    contestant = JaxgenTraining(case.as_dict())
    measure(
        contestant.run,
        suite="seq2seq, training",
        shape=case.shape,
        unit="examples",
        cost=seq2seq_costs.epoch(case),
        amount=case.examples,
        **contestant.facts(),
    )


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_decoding(case: Seq2SeqCase, beams: int, batch: int, measure: Any) -> None:
    """Sentences a second, from tokens to tokens on the host."""
    case = dataclasses.replace(case, B=batch, beams=beams)
    contestant = JaxgenDecoding(case.as_dict())
    measure(
        lambda units: contestant.run(units * case.calls),
        suite="seq2seq, decoding",
        shape=case.shape,
        unit="examples",
        cost=seq2seq_costs.decoding(case),
        amount=case.calls * case.B,
        **contestant.facts(),
    )
