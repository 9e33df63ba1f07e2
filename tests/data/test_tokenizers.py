"""Tokenizers: exact round trips, the library's own ids, unknowns counted, text as it streams."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgen.config import TokenizerConfig
from jaxgen.data.pieces import repiece
from jaxgen.data.tokenizers import StreamingDecoder, Tokenizer, UnknownTokenWarning
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.errors import UserError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
HARD = "한글 각 👩‍👩‍👧 e\u0301 \r\n\0<eos><unk> ΑΣ İ \ufeff \u2028\x85\x1c ﬁ"
PROSE = "the cat sat on the mat <unk> .\n\nThe dog 's bone , 1,234 !!  \n été ÉTÉ 한국어\n" * 3


def build(kind: str, text: object = PROSE, **settings: object) -> Tokenizer:
    lowercase = bool(settings.pop("lowercase", False))
    specials = settings.pop("specials", ())
    if kind == "bpe":
        settings.setdefault("vocab_size", 300)
    config = TokenizerConfig(kind=kind, **settings)
    return build_tokenizer(config, [text], lowercase=lowercase, specials=specials)


INTEGERS = build("integer", [5, -3, 60, 60, 62])
VARIANTS = {
    "byte": build("byte"),
    "byte-lower-nfc-eos": build("byte", lowercase=True, nfc=True, specials=("<eos>",)),
    "char": build("char"),
    "char-lower-nfc": build("char", lowercase=True, nfc=True, specials=("<pad>", "<bos>", "<eos>")),
    "word": build("word"),
    "word-lower-nfc": build("word", lowercase=True, nfc=True, min_frequency=4),
    "bpe": build("bpe"),
    "bpe-lower-nfc-eos": build("bpe", lowercase=True, nfc=True, specials=("<eos>",)),
    "integer": INTEGERS,
}
EACH = pytest.mark.parametrize("tokenizer", VARIANTS.values(), ids=VARIANTS)


@given(ANY_TEXT)
@example(HARD)
def test_bytes_and_characters_give_back_any_text(text: str) -> None:
    byte = VARIANTS["byte"]
    assert byte.decode(byte.encode(text)) == text
    np.testing.assert_array_equal(byte.encode(text), list(text.encode()))
    character = build("char", text or "a", specials=("<eos>",))
    assert character.decode(character.encode(text)) == text
    assert character.vocab_size == len(set(text or "a")) + 2
    subword = VARIANTS["bpe"]
    assert subword.decode(subword.encode(text)) == text


@given(ANY_TEXT)
@example("e\u0301 각")
def test_nfc_composes(text: str) -> None:
    tokenizer = build("byte", nfc=True)
    expected = unicodedata.normalize("NFC", text)
    if unicodedata.unidata_version < "16" and not unicodedata.is_normalized("NFC", text):
        # The library may know characters that this Python does not.
        known = all(unicodedata.category(character) != "Cn" for character in text)
        expected = expected if known else tokenizer.normalize(text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@EACH
def test_saved_tokenizer_is_the_librarys(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`tokenizers.Tokenizer.from_file` gives the same ids, and the same text from any ids."""
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    library = tokenizers.Tokenizer.from_file(str(path))
    loaded = Tokenizer.load(path)
    assert (loaded.kind, loaded.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert loaded.fingerprint == tokenizer.fingerprint
    words = st.sampled_from([*PROSE.split(), "<eos>", " ", "\n", "\r\n", "60", "-3", "+5", "zzz"])

    @given(st.one_of(ANY_TEXT, st.lists(words).map(" ".join), st.lists(words).map("".join)))
    @example(HARD)
    @example(PROSE)
    def same_ids(text: str) -> None:
        ids, _ = tokenizer.encode_with_unknowns(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == library.encode(text).ids
        assert ids.tolist() == loaded.encode_with_unknowns(text)[0].tolist()

    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    def same_text(ids: list[int]) -> None:
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)

    same_ids()
    same_text()


@EACH
@given(
    text=st.lists(st.sampled_from(["ab", "é", "e\u0301", " ", "\n", "12", "!", "\t"])).map("".join),
    size=st.integers(1, 8),
)
def test_pieces_encode_as_the_whole(tokenizer: Tokenizer, text: str, size: int) -> None:
    encoded, _ = tokenizer.encode_many(list(repiece([text], size)))
    whole, _ = tokenizer.encode_with_unknowns(text)
    if max(map(len, text.split(" ")), default=0) < 16 * size:
        assert np.concatenate([np.zeros(0, np.int32), *encoded]).tolist() == whole.tolist()


@EACH
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    stream = StreamingDecoder(tokenizer)
    shown = [stream.push([token]) for token in ids]
    assert "".join(shown) + stream.finish() == tokenizer.decode(ids)


def test_streaming_never_splits_a_character() -> None:
    for kind in ("byte", "bpe"):
        tokenizer = VARIANTS[kind]
        stream = StreamingDecoder(tokenizer)
        shown = [stream.push([token]) for token in tokenizer.encode("a한👩é")]
        assert [piece for piece in shown if piece] == ["a", "한", "👩", "é"]
        assert stream.finish() == ""
    stream = StreamingDecoder(VARIANTS["byte"])
    assert stream.push(list("한".encode())[:2]) == ""
    assert stream.finish() == "\ufffd"


def test_continuing_a_prompt_keeps_words_apart() -> None:
    tokenizer = VARIANTS["word"]
    stream = StreamingDecoder(tokenizer)
    assert stream.push(tokenizer.encode("the cat")) == "the cat"
    assert stream.push(tokenizer.encode("sat\non")) == " sat\non"


def test_words_read_naturally() -> None:
    tokenizer = VARIANTS["word"]
    text = "the cat sat on the mat\n\nThe dog 's bone\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # <unk> in the text is the unknown word itself, as in WikiText, and warns of nothing.
    assert tokenizer.encode("<unk>").tolist() == [tokenizer.unk_id]


def test_words_by_hand() -> None:
    tokenizer = build("word", "b a b\nc c c\n")
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.unk_id) == (5, 3, 4)
    assert tokenizer.encode("a b\n c").tolist() == [2, 1, 3, 0]
    rare = build("word", "b a b\nc c c\n", min_frequency=2)
    assert rare.encode_with_unknowns("a b a c")[0].tolist() == [rare.unk_id, 1, rare.unk_id, 0]
    assert build("word", "b a b\nc c c\n", vocab_size=3).vocab_size == 3


def test_characters_by_hand() -> None:
    tokenizer = build("char", "caab")
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.eos_id) == (4, 3, None)
    assert tokenizer.encode("abc").tolist() == [0, 1, 2]
    assert build("char", "caab", min_frequency=2).vocab_size == 2
    assert build("char", "AaB", lowercase=True).encode("Ab").tolist() == [0, 1]
    ranked = build("char", "cccbba", vocab_size=3)
    ids, unknown = ranked.encode_with_unknowns("abc")
    assert (ids.tolist(), unknown) == ([2, 0, 1], Counter("a"))


def test_integers_by_hand() -> None:
    assert INTEGERS.encode([60, -3, 5]).tolist() == [2, 0, 1]
    assert INTEGERS.encode("60 -3\n5").tolist() == [2, 0, 1]
    assert INTEGERS.decode([2, 0, 1]) == "60 -3 5"
    numbers = build("integer", list(range(100)), specials=("<eos>",))
    assert numbers.encode([0, 42, 99]).tolist() == [0, 42, 99]
    assert numbers.decode([42, numbers.eos_id, 7]) == "42\n7"


def test_bpe_learns_pieces() -> None:
    text = "low lower lowest newer wider " * 50
    tokenizer = build("bpe", text, vocab_size=280, specials=("<eos>",))
    assert tokenizer.vocab_size <= 280
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    assert len(tokenizer.encode(text)) < len(text) / 3
    again = build("bpe", text, vocab_size=280, specials=("<eos>",))
    assert again.fingerprint == tokenizer.fingerprint
    # A text that spells <eos> is not the end of a document.
    assert tokenizer.eos_id not in tokenizer.encode("a<eos>b")


def test_unknown_characters_are_counted_in_one_warning() -> None:
    tokenizer = build("char", "abc ")
    with pytest.warns(UnknownTokenWarning) as caught:
        ids = tokenizer.encode("éa é한")
    assert len(caught) == 1
    assert "'é' U+00E9 (2x), '한' U+D55C (1x): 3 in all" in str(caught[0].message)
    assert ids.tolist().count(tokenizer.unk_id) == 3
    assert tokenizer.decode(ids) == "\ufffda \ufffd\ufffd"
    with pytest.warns(UnknownTokenWarning, match="and 2 more"):
        tokenizer.encode("ABCDEFGHIJKL")
    _, unknown = VARIANTS["word"].encode_with_unknowns("the cow and the cow")
    assert unknown == {"cow": 2, "and": 1}
    _, unknown = INTEGERS.encode_with_unknowns([60, 61, 61])
    assert unknown == {"61": 2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("char-lower-nfc", "<bos>"), ("word", "<eos>"), ("byte", "Ċ"), ("char", "\n"), ("bpe", "Ċ")],
)
def test_an_empty_prompt_has_a_start(name: str, expected: str) -> None:
    tokenizer = VARIANTS[name]
    assert tokenizer.backend.id_to_token(tokenizer.start_id) == expected
    assert build("char", "ab").start_id == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bpe"}, "needs `tokenizer.vocab_size`"),
        ({"kind": "bpe", "vocab_size": 256}, "at least 257 for the bpe .*<eos>.*, got 256"),
        ({"kind": "byte", "vocab_size": 100}, "at least 257"),
        ({"kind": "word", "vocab_size": 2}, "at least 3 .*<eos>, <unk>.* got 2"),
        ({"kind": "char", "min_frequency": 1000}, "no char that occurs 1000 times"),
    ],
)
def test_impossible_vocabularies(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_tokenizer(TokenizerConfig(**settings), [PROSE], specials=("<eos>",))


def test_wrong_kinds_of_text() -> None:
    with pytest.raises(UserError, match=r"set `tokenizer.kind` to integer"):
        VARIANTS["char"].encode([1, 2])
    with pytest.raises(UserError, match=r"set `tokenizer.kind` to integer"):
        build("char", [1, 2])
    with pytest.raises(UserError, match="text has 'a', which is no integer"):
        build("integer", "1 a 2")
    for kind in ("byte", "char", "word", "bpe"):
        with pytest.raises(UserError, match=r"character 1 .*'\\ud800', half a surrogate"):
            VARIANTS[kind].encode("a\ud800")
    with pytest.raises(UserError, match=r"token id 900 is outside .* 0 to 255"):
        VARIANTS["byte"].decode([900])


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer file at"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0"')
    with pytest.raises(UserError, match="not a tokenizer that jaxgen can read"):
        Tokenizer.load(path)
    tokenizers.Tokenizer(tokenizers.models.Unigram()).save(str(path))
    with pytest.raises(UserError, match="not a byte, character, word, BPE or integer"):
        Tokenizer.load(path)


def test_the_librarys_nested_control_blanks() -> None:
    """Python's `split` knows four more blanks than the library; the saved file says so."""
    tokenizer = VARIANTS["word"]
    text = "the\x1ccat\x1dsat\x85on\u3000the"
    assert tokenizer.encode(text).tolist() == tokenizer.backend.encode(text).ids


SPECIAL_NAMES = ["<pad>", "<bos>", "<eos>", "<unk>", "<", "eos>", "a", "<EOS>", "a<eos>b", "\x1d"]
LITERALS = st.lists(st.sampled_from([*SPECIAL_NAMES, " ", "\n", "\r\n"])).map("".join)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "word"])
@given(LITERALS)
@example("a <eos> <pad><bos>b <unk>\n<\x1deos>")
def test_names_of_special_tokens_in_a_text_are_text(kind: str, text: str) -> None:
    tokenizer = build(kind, f"a {text}", specials=("<pad>", "<bos>", "<eos>"), vocab_size=400)
    ids, unknown = tokenizer.encode_with_unknowns(text)
    assert not unknown
    assert not {tokenizer.pad_id, tokenizer.bos_id} & set(ids.tolist())
    library = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    assert ids.tolist() == library.encode(text).ids
    decoded = tokenizer.decode(ids)
    assert decoded == library.decode(ids.tolist(), skip_special_tokens=False)
    if kind == "word":  # Words and lines are kept, blanks are not; <unk> is the unknown word.
        lines = [" ".join(line.split()) for line in text.split("\n")]
        assert decoded == "\n".join(lines)
        assert ids.tolist().count(tokenizer.eos_id) == text.count("\n")
    else:
        assert decoded == text
        assert tokenizer.eos_id not in ids
        assert tokenizer.unk_id not in ids


def test_words_that_name_special_tokens_by_hand() -> None:
    tokenizer = build("word", "<pad> a <bos>\n<eos>\n")
    assert (tokenizer.pad_id, tokenizer.bos_id) == (None, None)
    assert tokenizer.special_ids == (tokenizer.unk_id,)
    assert tokenizer.vocab_size == 4 + 2
    assert tokenizer.decode(tokenizer.encode("a <pad> <eos>\n<bos>")) == "a <pad> <eos>\n<bos>"
    with pytest.warns(UnknownTokenWarning, match=r"'x<eos>' \(1x\)"):
        tokenizer.encode("x<eos>")
    with pytest.raises(UserError, match="the text has '<unk>', which is no integer"):
        build("integer", "1 <unk> 2")


def test_special_ids() -> None:
    tokenizer = build("char", "ab", specials=("<pad>", "<bos>", "<eos>"))
    assert tokenizer.special_ids == (tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id)
    assert build("byte").special_ids == ()
    assert build("bpe", specials=("<eos>",)).special_ids == ()


def test_word_tokenizers_of_earlier_files() -> None:
    """Without marks a text's `<pad>` is a word of it; all other ids are as they are now."""
    tokenizer = build("word", PROSE + "<pad> " * 50)
    spec = json.loads(tokenizer.backend.to_str())
    first, last = spec["normalizer"]["normalizers"][0], spec["normalizer"]["normalizers"][-1]
    spec["normalizer"]["normalizers"] = [first, last]
    words = spec["model"]["vocab"]
    spec["model"]["vocab"] = {word.replace("\x1d", ""): words[word] for word in words}
    spec["decoder"]["decoders"].pop()
    earlier = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))
    assert (earlier.kind, earlier.pad_id) == ("word", None)
    assert (earlier.eos_id, earlier.unk_id) == (tokenizer.eos_id, tokenizer.unk_id)
    assert earlier.decode(earlier.encode("the <pad> cat")) == "the <pad> cat"
    assert earlier.encode(PROSE).tolist() == tokenizer.encode(PROSE).tolist()
    assert earlier.encode("the\rcat").tolist() == earlier.encode("the cat").tolist()


def test_every_line_end_ends_a_line_of_words() -> None:
    tokenizer = build("word", "a b\rc\r\nd\n\re")
    assert tokenizer.decode(tokenizer.encode("a b\rc\r\nd\n\re")) == "a b\nc\nd\n\ne"
    library = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    assert library.encode("a\r\rb\r\n\rc").ids == tokenizer.encode("a\r\rb\r\n\rc").tolist()
    character = build("char", "abcd \r\n")
    assert character.decode(character.encode("a b\rc\r\nd")) == "a b\rc\r\nd"
