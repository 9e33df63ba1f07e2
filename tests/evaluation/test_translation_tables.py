"""Figures of a translator as text."""

from jaxgen.evaluation.translation_tables import translation_tables

COPIES = {
    "exact_match": 0.0,
    "bleu": 3.5,
    "chrf": 20.0,
    "bleu_signature": "n",
    "chrf_signature": "n",
}
FIGURES = {
    "path": "run",
    "text": "a.de, a.en",
    "pairs": 1234,
    "beam_size": 4,
    "nll": 0.5,
    "perplexity": 1.648721,
    "exact_match": 0.25,
    "bleu": 30.125,
    "bleu_signature": "nrefs:1|tok:13a",
    "chrf": 55.5,
    "chrf_signature": "nrefs:1|nc:6",
    "nearest_pair": COPIES,
}


def test_scores_stand_above_those_of_copies() -> None:
    apart = {"unseen_formats": FIGURES | {"pairs": 7, "bleu": 2.0}}
    assert translation_tables(FIGURES | apart) == (
        "text            a.de, a.en\n"
        "pairs           1,234\n"
        "beam_size       4\n"
        "nll             0.5\n"
        "perplexity      1.64872\n"
        "\n"
        "                         pairs  exact match   BLEU   chrF\n"
        "translations             1,234       0.2500  30.12  55.50\n"
        "  nearest training pair              0.0000   3.50  20.00\n"
        "unseen formats               7       0.2500   2.00  55.50\n"
        "  nearest training pair              0.0000   3.50  20.00\n"
        "\n"
        "BLEU  nrefs:1|tok:13a\n"
        "chrF  nrefs:1|nc:6"
    )


def test_without_sacrebleu_and_without_copies() -> None:
    figures = {"text": "a", "pairs": 3, "beam_size": 1, "exact_match": 1.0}
    assert translation_tables(figures) == (
        "text            a\npairs           3\nbeam_size       1\n\n"
        "              pairs  exact match\n"
        "translations      3       1.0000"
    )
