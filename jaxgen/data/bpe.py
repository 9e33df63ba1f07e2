"""Byte-level BPE: its description to the library, and the training of its merges."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from jaxgen.config import TokenizerConfig
from jaxgen.data.pieces import UNBROKEN_CHARACTERS, repiece
from jaxgen.data.progress import Progress
from jaxgen.data.tokenizers import BOS, EOS, PAD, byte_alphabet

_WAIT_SECONDS = 0.1
# The library buffers 256 texts at a time, so large ones would cost memory.
_PIECE_CHARACTERS = 1 << 16


def byte_level(
    tokens: Sequence[str],
    merges: Sequence[tuple[str, str]],
    steps: Sequence[normalizers.Normalizer],
    *,
    words: bool,
) -> tokenizers.Tokenizer:
    """Byte-level BPE; without merges and without cutting the text into words, plain bytes.

    The time that the library takes for a word grows with the square of its length, so a run of
    visible characters, or of blanks, is cut into words of `UNBROKEN_CHARACTERS` first.
    """
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    if steps:
        backend.normalizer = normalizers.Sequence(list(steps))
    cut: pre_tokenizers.PreTokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=words
    )
    if words:
        run = Regex(rf"\S{{{UNBROKEN_CHARACTERS}}}|\s{{{UNBROKEN_CHARACTERS}}}")
        cut = pre_tokenizers.Sequence([pre_tokenizers.Split(run, "isolated"), cut])
    backend.pre_tokenizer = cut
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(PAD, ""),
            decoders.Replace(BOS, ""),
            decoders.Replace(EOS, byte_alphabet()[ord("\n")]),
            decoders.ByteLevel(),
        ]
    )
    return backend


def train_bpe(
    config: TokenizerConfig,
    texts: Iterable[str],
    steps: Sequence[normalizers.Normalizer],
    names: Sequence[str],
) -> tokenizers.Tokenizer:
    """Learn the merges of normalised texts, up to `config.vocab_size` tokens with the specials.

    Says how far it is where it takes long, and stops at Ctrl-C at any time.
    """
    assert config.vocab_size is not None  # checked by the caller
    backend = byte_level(byte_alphabet(), [], steps, words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(names),
        min_frequency=config.min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    read = 0
    stopped = threading.Event()

    def pieces() -> Iterator[str]:
        nonlocal read
        for text in texts:
            for piece in repiece([text], _PIECE_CHARACTERS):
                if stopped.is_set():
                    raise KeyboardInterrupt
                read += len(piece)
                yield piece

    progress = Progress("learning the pieces of the bpe tokenizer")
    _in_a_thread(
        lambda: backend.train_from_iterator(pieces(), trainer),
        waiting=lambda: progress.say(f"{read / 1e6:.1f} million characters read"),
        stopped=stopped,
    )
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [(left, right) for left, right in model["merges"]]
    return byte_level([*tokens, *names], merges, steps, words=True)


def _in_a_thread(
    work: Callable[[], object], *, waiting: Callable[[], object], stopped: threading.Event
) -> None:
    """Do the work in a thread: Ctrl-C reaches only the main one, and not inside the library.

    The thread of a work that is left ends as soon as the library asks for more text, or with the
    process.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="bpe", daemon=True)
    try:
        thread.start()
        works = True
        while works:
            thread.join(_WAIT_SECONDS)
            works = thread.is_alive()
            waiting()
    finally:
        stopped.set()
    if failures:
        raise failures[0]
