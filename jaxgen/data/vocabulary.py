"""Build a tokenizer: count what a corpus holds, choose the vocabulary, describe it to the library.

Special tokens come last, so that byte b has id b. They are ordinary entries of the vocabulary and
not the library's "added tokens", which it would also find inside a text: no text is a special
token, so that a text that happens to contain ``<eos>`` is given back. Characters and pieces are
never so long; in words, these names are marked (see `tokenizers.MARK`). The one exception is
``<unk>`` among words, which is how corpora such as WikiText write a word that they do not know: it
is that token, and reads as itself.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from jaxgen.config import TokenizerConfig
from jaxgen.data.bpe import byte_level, train_bpe
from jaxgen.data.pieces import repiece
from jaxgen.data.tokenizers import (
    BARE_RETURN,
    BOS,
    EOS,
    MARK,
    PAD,
    UNK,
    Kind,
    Tokenizer,
    byte_alphabet,
    marked,
)
from jaxgen.errors import UserError

Document = str | Sequence[int]


def build_tokenizer(
    config: TokenizerConfig,
    texts: Iterable[Document],
    *,
    lowercase: bool = False,
    specials: Sequence[str] = (),
) -> Tokenizer:
    """Fit a tokenizer to the texts, read once (byte: not at all).

    Args:
        config: the kind, and what limits its vocabulary.
        texts: pieces of text in any division that does not cut words, or lists of integers.
        lowercase: lower-case every text that the tokenizer will read.
        specials: special tokens beyond those the kind needs by itself, which are ``<unk>`` for
            char, word and integer, and ``<eos>`` (a line's end) for word. For example ``<eos>``
            where the corpus is made of documents.

    Raises:
        UserError: `vocab_size` is missing (bpe) or leaves no room, or the corpus is empty.
    """
    kind = config.kind
    own = {"char": (UNK,), "word": (UNK, EOS), "integer": (UNK,)}.get(kind, ())
    wanted = {*own, *specials}
    names = [token for token in (PAD, BOS, EOS, UNK) if token in wanted]
    smallest = len(names) + (256 if kind in ("byte", "bpe") else 1)
    if kind == "bpe" and config.vocab_size is None:
        raise UserError(
            "the bpe tokenizer needs `tokenizer.vocab_size`, its number of pieces; try 4096"
        )
    if config.vocab_size is not None and config.vocab_size < smallest:
        raise UserError(
            f"`tokenizer.vocab_size` must be at least {smallest} for the {kind} tokenizer "
            f"(special tokens: {', '.join(names) or 'none'}), got {config.vocab_size}"
        )

    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lowercase else []
    steps += [normalizers.NFC()] if config.nfc else []
    if kind == "bpe":
        reader = Tokenizer(byte_level(byte_alphabet(), [], steps, words=True))
        return Tokenizer(train_bpe(config, map(reader.normalize, texts), steps, names))
    if kind == "byte":
        return Tokenizer(byte_level(byte_alphabet() + names, [], steps, words=False))
    # Counting takes the very path that encoding will take, only without a vocabulary.
    blank = Tokenizer(_plain(names, kind, steps))
    counts = _characters(blank, texts) if kind == "char" else _words(blank, texts)
    for token in names:
        counts.pop(token, None)
    kept = [token for token, count in counts.items() if count >= config.min_frequency]
    kept.sort(key=lambda token: (-counts[token], token))
    if config.vocab_size is not None:
        del kept[config.vocab_size - len(names) :]
    if not kept:
        raise UserError(
            f"the training text has no {kind} that occurs {config.min_frequency} times; "
            "give a text that is not empty, or lower `tokenizer.min_frequency`"
        )
    if kind == "char":
        kept.sort()
    elif kind == "integer":
        kept.sort(key=_integer)
    return Tokenizer(_plain(kept + names, kind, steps))


def count_tokenizer(count: int) -> Tokenizer:
    """A tokenizer of the integers below `count`, whose ids are themselves; it has no others."""
    return Tokenizer(_plain([str(number) for number in range(count)], "integer", []))


def _characters(tokenizer: Tokenizer, texts: Iterable[Document]) -> Counter[str]:
    counts = np.zeros(0x110000, np.int64)
    for piece in repiece(map(tokenizer.normalize, texts)):
        found = np.bincount(np.frombuffer(piece.encode("utf-32-le"), "<u4"))
        counts[: len(found)] += found
    return Counter({chr(point): int(counts[point]) for point in np.flatnonzero(counts)})


def _words(tokenizer: Tokenizer, texts: Iterable[Document]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.words(text))
    return counts


def _integer(token: str) -> int:
    try:
        return int(token)
    except ValueError:
        raise UserError(
            "the integer tokenizer reads integers with blanks between, but the text has "
            f"{token.replace(MARK, '')!r}"
            ", which is no integer; set `tokenizer.kind` to word"
        ) from None


def _plain(
    tokens: Sequence[str], kind: Kind, steps: Sequence[normalizers.Normalizer]
) -> tokenizers.Tokenizer:
    """Characters (BPE without merges cuts at each) or words between blanks."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    silent = [decoders.Replace(PAD, ""), decoders.Replace(BOS, "")]
    if kind == "char":
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
        shown = [decoders.Replace(EOS, "\n"), decoders.Replace(UNK, "\ufffd"), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*silent, *shown])
    else:
        backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        # WordPiece puts a blank before every word but the first; no word starts with a new line.
        backend.decoder = decoders.Sequence(
            [
                decoders.WordPiece(prefix="\n", cleanup=False),
                decoders.Fuse(),
                decoders.Replace(Regex(f" ?({PAD}|{BOS})"), ""),
                decoders.Replace(Regex(f" ?{EOS} ?"), "\n"),
                decoders.Replace(MARK, ""),
            ]
        )
        # Python counts these four as blanks too; MARK is one of them, so no text holds it now.
        steps = [*steps, normalizers.Replace(Regex(r"[\x1c-\x1f]"), " ")]
        literal = (PAD, BOS, EOS) if kind == "word" else (PAD, BOS, EOS, UNK)
        steps = [*steps, *(normalizers.Replace(token, marked(token)) for token in literal)]
        if kind == "word":
            steps = [*steps, normalizers.Replace(Regex(BARE_RETURN), "\n")]
            steps = [*steps, normalizers.Replace("\n", f" {EOS} ")]
    if steps:
        backend.normalizer = normalizers.Sequence(list(steps))
    return backend
