"""What mypy must know of the answers of a `TextModel`; `test_text_types.py` runs it."""

from typing import assert_type

from jaxgen.generation.lines import Beam, Sample
from jaxgen.generation.text import TextModel


def calls(lm: TextModel) -> None:
    """One call of each shape."""
    assert_type(lm.generate(), str)
    assert_type(lm.generate("a", temperature=0.5, stop="x"), str)
    assert_type(lm.generate([60, 62]), str)
    assert_type(lm.generate(["a"], temperature=[0.1, 1.0]), list[str])
    assert_type(lm.generate([[60], [62]]), list[str])
    assert_type(lm.generate("a", temperature=[0.1, 1.0]), list[str])
    assert_type(lm.generate("a", n=2, top_k=3), list[str])
    assert_type(lm.generate(["a"], n=2), list[list[str]])
    assert_type(lm.sample("a", logprobs=False), Sample)
    assert_type(lm.sample(["a"], label=[1, 2]), list[Sample])
    assert_type(lm.sample(["a"], n=2), list[list[Sample]])
    assert_type(lm.generate("a", label="joy", guidance=2.0), str)
    assert_type(lm.generate("a", label=["joy", "not:fear"], guidance=2), list[str])
    assert_type(lm.beam_search("a", stop="x"), Beam)
    assert_type(lm.beam_search("a", label=["joy", 3]), list[Beam])
    assert_type(lm.beam_search(["a"], n=2), list[list[Beam]])
    assert_type(lm.perplexity("a"), float)
    assert_type(lm.perplexity(["a"], label="joy"), list[float])
    assert_type(lm.perplexity("a", guidance=[1.0, 2.0], label="joy"), list[float])
    lm.generate("a", temprature=1)  # type: ignore[call-overload]
