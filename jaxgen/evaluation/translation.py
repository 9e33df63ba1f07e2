"""Figures of translations beside their references: BLEU, chrF, exact match, token accuracy."""

from collections.abc import Hashable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from jaxgen.errors import UserError

TOKENIZERS = ("13a", "none", "intl", "char", "zh")
"""How sacreBLEU may divide a text into words without further packages."""


class CorpusScore(NamedTuple):
    """A figure by sacreBLEU."""

    score: float
    """0 to 100."""
    signature: str
    """How it was computed, for those who compare with it."""


def bleu(
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> CorpusScore:
    """BLEU of a corpus by sacreBLEU (Papineni et al., 2002; Post, 2018).

    Args:
        outputs: one text a source.
        references: one text a source.
        tokenize: how texts become words: one of `TOKENIZERS`; "none" for texts that are tokenised
            already.
        lowercase: whether case counts for nothing.

    Raises:
        UserError: sacreBLEU is missing, `tokenize` is unknown, there are no texts, or not as many
            outputs as references.
    """
    _check(outputs, references)
    metrics = check_bleu(tokenize)
    # Its one warning, of texts that seem tokenised, is for those who do not name a tokenizer.
    metric = metrics.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    return _scored(metric, outputs, references)


def chrf(
    outputs: Sequence[str], references: Sequence[str], *, lowercase: bool = False
) -> CorpusScore:
    """chrF2 of a corpus by sacreBLEU: n-grams of up to 6 characters (Popović, 2015).

    Takes and raises what `bleu` does.
    """
    _check(outputs, references)
    return _scored(_sacrebleu().CHRF(lowercase=lowercase), outputs, references)


def exact_match(outputs: Sequence[Any], references: Sequence[Any]) -> float:
    """Share of the outputs that are their reference; UserError as in `bleu`."""
    _check(outputs, references)
    pairs = zip(outputs, references, strict=True)
    return sum(output == reference for output, reference in pairs) / len(outputs)


def token_accuracy(
    outputs: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]
) -> float:
    """Share of the tokens of all references that the output has at the same place.

    An output that is too short loses what it lacks; what it has too much costs nothing.

    Args:
        outputs: tokens, words or characters of each output.
        references: those of each reference.

    Raises:
        UserError: there are no tokens, or not as many outputs as references.
    """
    _check(outputs, references)
    total = sum(map(len, references))
    if not total:
        raise UserError("the token accuracy needs references with at least one token, got none")
    pairs = zip(outputs, references, strict=True)
    return sum(a == b for both in pairs for a, b in zip(*both, strict=False)) / total


def translation_figures(
    outputs: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> dict[str, Any]:
    """`bleu` and `chrf`, each with its signature, and `exact_match`; one row of a table.

    Takes and raises what `bleu` does.
    """
    words = bleu(outputs, references, tokenize=tokenize, lowercase=lowercase)
    characters = chrf(outputs, references, lowercase=lowercase)
    return {
        "bleu": words.score,
        "bleu_signature": words.signature,
        "chrf": characters.score,
        "chrf_signature": characters.signature,
        "exact_match": exact_match(outputs, references),
    }


def check_bleu(tokenize: str, *, name: str = "`tokenize`") -> Any:
    """The metrics of sacreBLEU; UserError where BLEU cannot be had with this tokenizer."""
    if tokenize not in TOKENIZERS:
        raise UserError(f"{name} must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    return _sacrebleu()


def can_score() -> bool:
    """Whether sacreBLEU is installed."""
    return find_spec("sacrebleu") is not None


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UserError(
            "BLEU and chrF need sacreBLEU, which is not installed; install jaxgen[eval], or go "
            "without them"
        ) from error
    return metrics


def _scored(metric: Any, outputs: Sequence[str], references: Sequence[str]) -> CorpusScore:
    score = metric.corpus_score(list(outputs), [list(references)]).score
    return CorpusScore(float(score), str(metric.get_signature()))


def _check(outputs: Sequence[Any], references: Sequence[Any]) -> None:
    if len(outputs) != len(references) or not len(outputs):
        raise UserError(
            "there must be one output for each reference, and at least one, got "
            f"{len(outputs)} outputs and {len(references)} references"
        )
