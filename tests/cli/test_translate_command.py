"""`jaxgen translate`: texts from everywhere, n-best, JSON, pictures, options that conflict."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from generation.translators import make_translator

from jaxgen.generation.translator import Translator

pytestmark = pytest.mark.slow

Fail = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]
SHORT = ("--max-new-tokens", 6)


@pytest.fixture(scope="module")
def translator() -> Translator:
    config = SimpleNamespace(
        data=SimpleNamespace(source_column=None),
        translation=SimpleNamespace(beam_size=3, length_penalty=0.5),
    )
    return replace(make_translator(), config=config)


@pytest.fixture(autouse=True)
def loaded(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for a run: whatever directory is named, this is what it holds."""
    monkeypatch.setattr("jaxgen.experiment.load", lambda run, which: translator)
    monkeypatch.setattr("jaxgen.saved.check_command", lambda run, command: None)


def found(translator: Translator, *texts: str, n_best: int = 2):
    options = {"beam_size": 3, "length_penalty": 0.5, "max_new_tokens": 6}
    return translator.translate(texts, n_best=n_best, **options)


def test_texts_have_a_line_each_with_the_settings_of_the_run(
    say: Say, translator: Translator
) -> None:
    best = found(translator, "abc", "fed")
    code, out, err = say("translate", "run", "abc", "fed", *SHORT)
    assert (code, err) == (0, "")
    assert out.splitlines() == [one[0].text for one in best]
    out = say("translate", "run", "abc", "fed", *SHORT, "--n-best", 2)[1]
    assert out.splitlines() == [
        f"{number}\t{one.score:.4f}\t{one.text}"
        for number, several in enumerate(best, 1)
        for one in several
    ]
    wide = translator.translate("abc", beam_size=2, length_penalty=0.0, max_new_tokens=6)
    options = (*SHORT, "--beam-size", 2, "--length-penalty", 0)
    assert say("translate", "run", "abc", *options)[1] == f"{wide}\n"


def test_json_has_an_object_a_text(say: Say, translator: Translator) -> None:
    ((best,),) = found(translator, "abc", n_best=1)
    shown = json.loads(say("translate", "run", "abc", *SHORT, "--json")[1])
    names = [*best.text, "<eos>"][: len(best.tokens)]
    assert shown == {
        "source": "abc",
        "translation": best.text,
        "translations": [
            {
                "text": best.text,
                "score": best.score,
                "tokens": names,
                "token_scores": best.token_scores,
            }
        ],
    }


@pytest.mark.parametrize("from_file", [True, False])
def test_lines_are_translated_in_order_and_empty_ones_stay(
    from_file: bool, tmp_path: Path, say: Say, translator: Translator, monkeypatch
) -> None:
    content, options = b"abc\n\nfed\r\n", ()
    (tmp_path / "a.txt").write_bytes(content)
    if from_file:
        options = ("--file", tmp_path / "a.txt")
    else:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    first, _, last = found(translator, "abc", "", "fed")
    out = say("translate", "run", *options, *SHORT)[1]
    assert out.split("\n") == [first[0].text, "", last[0].text, ""]


def test_columns_of_tables(tmp_path: Path, say: Say, translator: Translator) -> None:
    (tmp_path / "a.csv").write_text("id,source,de\n1,abc,fed\n")
    ((first,), (other,)) = found(translator, "abc", "fed", n_best=1)
    said = ("translate", "run", "--file", tmp_path / "a.csv", *SHORT)
    assert say(*said)[1] == f"{first.text}\n"
    assert say(*said, "--column", "de")[1] == f"{other.text}\n"


def test_chance_prefix_and_minimum_risk(say: Say, translator: Translator) -> None:
    options = {"max_new_tokens": 6, "key": 3, "prefix": "uv"}
    given = ("translate", "run", "abc", *SHORT, "--seed", 3, "--prefix", "uv")
    drawn = translator.translate("abc", beam_size=None, temperature=1.5, **options)
    assert say(*given, "--temperature", 1.5)[1] == f"{drawn}\n"
    least = translator.translate("abc", mbr=4, utility="bleu", **options)
    assert say(*given, "--mbr", 4, "--utility", "bleu")[1] == f"{least}\n"


def test_attention_is_drawn(tmp_path: Path, say: Say, translator: Translator) -> None:
    path = tmp_path / "attention.png"
    code, out, err = say("translate", "run", "abc", *SHORT, "--attention", path)
    assert (code, err) == (0, "")
    assert out == f"{found(translator, 'abc')[0][0].text}\n"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a", "--beam-size", 2, "--n-best", 3), "--n-best must be 1 to --beam-size, 2, got 3"),
        (("a", "--n-best", 4), "`n_best` must be in [1, beam_size = 3], got 4; raise `beam_size`"),
        (("a", "--mbr", 2, "--n-best", 3), "--n-best must be 1 to --mbr, 2, got 3"),
        (("a", "--beam-size", 0), "--beam-size must be at least 1, got 0"),
        (("a", "--n-best", 0), "--n-best must be at least 1, got 0"),
        (("a", "--beam-size", 2, "--top-p", 0.9), "--top-p draws translations at random, and"),
        (("a", "--beam-size", 2, "--mbr", 2), "--mbr draws translations at random, and"),
        (("a", "--seed", 2, "--patience", 1), "--patience is for a search, and --seed draws"),
        (("a", "--mbr", 2, "--length-penalty", 1), "--length-penalty is for a search, and --mbr"),
        (("a", "--utility", "bleu"), "--utility is for --mbr: leave it out"),
        (("a", "--seed", 2**33), "--seed must be in [-2147483648, 4294967296), got 8589934592"),
        (("a", "b", "--attention", "a.png"), "--attention draws one picture: give one text"),
        (("a", "--prefix", "u?"), "the prefix 'u?' holds '?', which the vocabulary of the trans"),
        (("a", "--ensemble-weights", 1), "--ensemble-weights is for --ensemble"),
        (("a", " "), "text 2 to translate is empty, got ' '; leave it out"),
        (("a", "--file", "b"), "give texts or --file, not both"),
    ],
)
def test_options_that_do_not_go_together(options, message, fail: Fail) -> None:
    assert message in fail("translate", "run", *options)


def test_a_model_without_attention_has_no_picture(fail: Fail, monkeypatch, tmp_path: Path) -> None:
    plain = make_translator("none")
    monkeypatch.setattr("jaxgen.experiment.load", lambda run, which: plain)
    picture = ("--attention", tmp_path / "a.png")
    assert "this model has no attention" in fail("translate", "run", "abc", *picture)
    penalty = ("--coverage-penalty", 0.2)
    assert "`coverage_penalty` needs a model with" in fail("translate", "run", "abc", *penalty)
