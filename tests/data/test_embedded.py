"""The embedded corpus: prose only, the same each time, nothing of it in two parts."""

from jaxgen.data.embedded import embedded_text


def test_it_is_enough_prose() -> None:
    text = embedded_text().text
    assert len(text) > 150_000
    paragraphs = text.strip("\n").split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert not any("::=" in paragraph or ">>>" in paragraph for paragraph in paragraphs)
    words = text.split()
    assert sum(word in ("the", "a", "is", "of", "to") for word in words) / len(words) > 0.15


def test_parts_are_whole_paragraphs_in_order() -> None:
    parts = embedded_text().cut([0.9, 0.05, 0.05])
    assert "".join("".join(part) for part in parts) == embedded_text().text
    assert all(part.text.endswith("\n") for part in parts)
    assert [round(part.nbytes / embedded_text().nbytes, 2) for part in parts] == [0.9, 0.05, 0.05]


def test_held_out_text_has_no_unknown_characters() -> None:
    train, *held_out = embedded_text().cut([0.9, 0.05, 0.05])
    assert all(set(part.text) <= set(train.text) for part in held_out)
