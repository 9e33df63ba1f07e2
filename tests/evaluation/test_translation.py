"""BLEU and chrF against sacreBLEU's own functions, and shares counted by hand."""

import builtins
from typing import Any

import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation import translation

OUTPUTS = ["The cat sat on the mat.", "a dog runs fast", "nothing", "two men are here ."]
REFERENCES = ["the cat sat on the mat.", "a dog runs", "something else", "two men are here ."]


@pytest.mark.parametrize("tokenize", translation.TOKENIZERS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_the_figures_are_those_of_sacrebleu(tokenize: str, lowercase: bool) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found = translation.translation_figures(
        OUTPUTS, REFERENCES, tokenize=tokenize, lowercase=lowercase
    )
    bleu = sacrebleu.corpus_bleu(
        OUTPUTS, [REFERENCES], tokenize=tokenize, lowercase=lowercase, force=True
    )
    case = "lc" if lowercase else "mixed"
    assert found["bleu"] == bleu.score
    assert f"|case:{case}|eff:no|tok:{tokenize}|smooth:exp|" in found["bleu_signature"]
    lower = [[text.lower() if lowercase else text for text in of] for of in (OUTPUTS, REFERENCES)]
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(lower[0], [lower[1]]).score)
    assert f"|case:{case}|eff:yes|nc:6|nw:0|space:no|" in found["chrf_signature"]
    assert found["exact_match"] == 0.25


def test_sacrebleu_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "sacrebleu":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for figure in (translation.bleu, translation.chrf, translation.translation_figures):
        with pytest.raises(UserError, match=r"not installed; install jaxgen\[eval\]"):
            figure(OUTPUTS, REFERENCES)


def test_token_accuracy() -> None:
    outputs = [["a", "b", "c"], ["a"], ["x", "y", "z", "w"]]
    references = [["a", "c", "c"], ["a", "b"], ["x", "y"]]
    assert translation.token_accuracy(outputs, references) == 5 / 7  # a . c, a, x y of 3 + 2 + 2
    assert translation.token_accuracy(["abd"], ["abc"]) == 2 / 3
    assert translation.exact_match(outputs, references) == 0


@pytest.mark.parametrize("outputs", [[], ["a"]])
def test_bad_input(outputs: list[str]) -> None:
    references = ["a", "b"] if outputs else []
    figures = (translation.bleu, translation.chrf, translation.exact_match)
    for figure in (*figures, translation.token_accuracy):
        with pytest.raises(UserError, match=f"got {len(outputs)} outputs and {len(references)}"):
            figure(outputs, references)
    with pytest.raises(UserError, match="at least one token, got none"):
        translation.token_accuracy(["", "a"], ["", ""])
    with pytest.raises(UserError, match=r"`tokenize` must be one of 13a, .*, got 'ja-mecab'"):
        translation.bleu(["a"], ["a"], tokenize="ja-mecab")
