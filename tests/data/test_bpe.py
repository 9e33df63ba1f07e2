"""BPE: long runs cost no more than other text, Ctrl-C is heard, and what is slow says so."""

import itertools
import json
import math
import random
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers

from jaxgen.config import TokenizerConfig
from jaxgen.data import bpe, progress
from jaxgen.data.pieces import UNBROKEN_CHARACTERS, repiece
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError

CONFIG = TokenizerConfig(kind="bpe", vocab_size=300)
GENOME = "".join(random.Random(0).choices("ACGT", k=10_000))


@pytest.mark.parametrize("text", [GENOME, " " * 5000, "\t\n" * 3000, "=" * 3000, "한" * 999])
def test_no_word_is_long(text: str) -> None:
    tokenizer = build_tokenizer(CONFIG, [text])
    cut = tokenizer.backend.pre_tokenizer.pre_tokenize_str(f"a {text} b {text}")
    assert max(stop - start for _, (start, stop) in cut) <= UNBROKEN_CHARACTERS + 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_of_a_long_run_encode_as_the_whole() -> None:
    tokenizer = build_tokenizer(CONFIG, [GENOME])
    text = "some words " + GENOME + " " * 3000 + GENOME
    library = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    for size in (100, 150, 256):  # The runs are longer than 16 times each.
        pieces = list(repiece([text], size))
        assert max(map(len, pieces)) <= 17 * size
        ids = np.concatenate(tokenizer.encode_many(pieces)[0])
        assert ids.tolist() == library.encode(text).ids


def test_ordinary_text_has_the_ids_that_earlier_files_gave() -> None:
    text = "The quick brown fox -- 1,234 of them -- jumped.\n\n  été 한국어" * 20
    tokenizer = build_tokenizer(CONFIG, [text])
    spec = json.loads(tokenizer.backend.to_str())
    spec["pre_tokenizer"] = spec["pre_tokenizer"]["pretokenizers"][-1]
    earlier = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))
    assert earlier.kind == "bpe"
    assert earlier.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_an_error_of_the_text_reaches_the_caller() -> None:
    def texts() -> Iterator[str]:
        yield "a"
        raise UserError("row 2 is broken")

    with pytest.raises(UserError, match="row 2 is broken"):
        build_tokenizer(CONFIG, texts())


def test_control_c_is_heard_while_the_library_works() -> None:
    works, release, stopped = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        works.set()
        release.wait(60)

    def interrupt() -> None:
        works.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # A shell's background jobs ignore Ctrl-C, and so do their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            bpe._in_a_thread(work, waiting=lambda: None, stopped=stopped)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.is_set()
    assert not release.is_set()  # The work itself was not waited for.
    release.set()


def test_an_interrupted_training_asks_for_no_more_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "say", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_tokenizer(CONFIG, itertools.repeat("some text "))
    for thread in threading.enumerate():
        if thread.name == "bpe":
            thread.join(60)
            assert not thread.is_alive()


def test_what_takes_long_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST_SECONDS", math.inf)
    build_tokenizer(CONFIG, [GENOME])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_EVERY_SECONDS", math.inf)
    build_tokenizer(CONFIG, [GENOME])
    err = capsys.readouterr().err
    assert err.startswith("learning the pieces of the bpe tokenizer: 0.0 million characters read")
    assert err.count("\n") == 1
