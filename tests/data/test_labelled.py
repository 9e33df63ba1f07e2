"""Labelled texts: every format gives the same rows, and parts are drawn of them."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxgen.config import LabelledData
from jaxgen.data.labelled import LabelledCorpus, LabelledTexts, load_labelled, read_labelled
from jaxgen.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the development corpora")
WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}
ROWS = [("good; very good", "pos"), ('bad, "bad"', "neg"), ("정말 좋아요", "pos"), ("so so", "neg")]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def load(*paths: Path, **settings: object) -> LabelledCorpus:
    return load_labelled(LabelledData(files=paths, **settings))


def rows(*paths: Path, **settings: object) -> list[tuple[str, object]]:
    train = load(*paths, **WHOLE, **settings).train
    multi = settings.get("multi_label")
    labels = [names if multi else names[0] for names in train.labels]
    return list(zip(train.texts, labels, strict=True))


def written(folder: Path, kind: str) -> tuple[list[Path], dict[str, object]]:
    """ROWS in files of one kind, and the settings that they need."""
    objects = [{"text": text, "label": label} for text, label in ROWS]
    quoted = "".join(f'"{text}","{label}"\n'.replace('"bad"', '""bad""') for text, label in ROWS)
    lines = "".join(f"{text}\t{label}\n" for text, label in ROWS)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), folder / "a.parquet")
        return [folder / "a.parquet"], {}
    name, content, settings = {
        "csv": ("a.csv", "text,label\n" + quoted, {}),
        "csv.gz without header": ("a.csv.gz", quoted, {"column": "0", "label_column": "1"}),
        "tsv": ("a.tsv", "label\ttext\n" + "".join(f"{b}\t{a}\n" for a, b in ROWS), {}),
        "tsv without header": ("a.tsv", lines, {"column": "0", "label_column": "1"}),
        "jsonl": ("a.jsonl", "\n".join(map(json.dumps, objects)), {}),
        "json": ("a.json", json.dumps(objects, indent=1), {}),
        "fasttext": ("a.train", "".join(f"__label__{b} {a}\n" for a, b in ROWS), {}),
        "lines": ("a.txt.gz", "".join(f"{a};{b}\r\n" for a, b in ROWS), {}),
        "lines with header": ("a.txt", "text;label\n" + "".join(f"{a};{b}\n" for a, b in ROWS), {}),
        "lines at tabs": ("a", lines, {"format": "lines"}),
        "lines at bars": ("a", "".join(f"{a}|{b}\n" for a, b in ROWS), {"separator": "|"}),
        "label before text": ("a.txt", "".join(f"{b}\t{a}\n\n" for a, b in ROWS), {}),
    }[kind]
    return [write(folder, name, content)], settings


KINDS = ("csv", "csv.gz without header", "tsv", "tsv without header", "jsonl", "json", "parquet")
KINDS += ("fasttext", "lines", "lines with header", "lines at tabs", "lines at bars")
KINDS += ("label before text",)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    paths, settings = written(tmp_path, kind)
    assert rows(*paths, **settings) == ROWS
    said = capfd.readouterr().err
    if "lines" in kind or kind in ("fasttext", "label before text"):
        assert said.startswith(f"{paths[0]}: read as ")
        assert said.count("\n") == 1
    else:
        assert said == ""


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("pos.txt", "neg.txt"), ("pos", "neg")),
        (("polarity.pos", "polarity.neg.gz"), ("pos", "neg")),
        (("pos/a.txt", "neg/a.txt"), ("pos", "neg")),
        (("2.txt", "1.txt"), ("2", "1")),
    ],
)
def test_one_file_a_class(
    names: tuple[str, str], labels: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    first = write(tmp_path, names[0], "good; very good\n\n정말 좋아요\n")
    second = write(tmp_path, names[1], "bad\r\nso so")
    assert rows(first, second) == [
        ("good; very good", labels[0]),
        ("정말 좋아요", labels[0]),
        ("bad", labels[1]),
        ("so so", labels[1]),
    ]
    assert f"read as one file a class: {', '.join(labels)}\n" in capfd.readouterr().err


def test_held_out_files_have_the_format_of_the_training_files(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    train = [write(tmp_path, f"{name}.txt", f"{name} 1\n{name} 2\n") for name in ("pos", "neg")]
    test = write(tmp_path / "test", "neg.txt", "a; b\n")
    corpus = load(*train, test_files=(test,), validation_fraction=0)
    assert corpus.validation is None
    assert corpus.test == LabelledTexts(["a; b"], [("neg",)], str(test))
    lines = write(tmp_path, "train.txt", "text;label\na;x\nb;y\n")
    other = write(tmp_path, "val.txt", "text;label\nc;x\n")
    corpus = load(lines, validation_files=(other,), test_fraction=0)
    assert corpus.validation == LabelledTexts(["c"], [("x",)], str(other))


def test_other_files_are_read_as_the_settings_say(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "review,stars\ngood,5\n")
    config = LabelledData(dataset="a/set", column="review", label_column="stars")
    assert read_labelled(config, [path]) == LabelledTexts(["good"], [("5",)], str(path))
    lines = write(tmp_path, "a.txt", "good;5\n")
    assert read_labelled(config, [lines]) == LabelledTexts(["good"], [("5",)], str(lines))


def test_types_of_labels(tmp_path: Path) -> None:
    def labels(*values: object, **settings: object) -> list[object]:
        lines = [
            json.dumps({"text": f"text {n}", "label": value}) for n, value in enumerate(values)
        ]
        path = write(tmp_path, "a.jsonl", "\n".join(lines))
        return [label for _, label in rows(path, **settings)]

    assert labels(10, 9, 10) == ["10", "9", "10"]
    assert labels("b", "a") == ["b", "a"]
    assert labels(True, False) == ["true", "false"]
    assert labels(["b"], "a") == ["b", "a"]
    assert labels(["b", "a", "b"], [], None, "7", multi_label=True) == [
        ("b", "a"),
        (),
        (),
        ("7",),
    ]
    assert labels([3, 2], 3, multi_label=True) == [("3", "2"), ("3",)]


def test_several_labels(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", 'text,label\nx,"drama, war"\ny,\nz,war\n')
    expected = [("x", ("drama", "war")), ("y", ()), ("z", ("war",))]
    assert rows(table, multi_label=True) == expected
    bars = write(tmp_path, "bars.csv", "text,label\nx,drama|war\ny,\nz,war\n")
    assert rows(bars, multi_label=True, label_separator="|") == expected
    lines = write(tmp_path, "a.txt", "__label__drama __label__war x\ny\n__label__war z\n")
    assert rows(lines, multi_label=True) == expected
    lists = pa.table({"text": ["x", "y", "z"], "label": [["drama", "war"], [], ["war"]]})
    pq.write_table(lists, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet", multi_label=True) == expected
    assert rows(write(tmp_path, "b.txt", "x;drama,war\nz;war\n"), multi_label=True) == [
        ("x", ("drama", "war")),
        ("z", ("war",)),
    ]
    drawn = load(lines, multi_label=True, validation_fraction=0, test_fraction=0.34)
    assert (len(drawn.train), len(drawn.test or ())) == (2, 1)


def test_drawn_parts(tmp_path: Path) -> None:
    content = "".join(f"text {n};{'rare' if n % 10 == 0 else 'common'}\n" for n in range(100))
    path = write(tmp_path, "a.txt", content)
    corpus = load(path, test_fraction=0.2)
    assert corpus.validation is not None
    assert corpus.test is not None
    parts = (corpus.train, corpus.validation, corpus.test)
    counts = [Counter(label for (label,) in part.labels) for part in parts]
    assert counts == [{"common": n, "rare": n // 9} for n in (63, 9, 18)]
    texts = [set(part.texts) for part in parts]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 100
    assert load(path, test_fraction=0.2) == corpus
    assert load(path, test_fraction=0.2, seed=-1) != corpus


def test_bytes_that_are_not_utf8_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"text,label\ncaf\xe9,x\nb,y\n")
    assert rows(path, errors="replace")[0] == ("caf\ufffd", "x")


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_a_text_of_a_megabyte(name: str, tmp_path: Path) -> None:
    text = "word " * 200_000
    path = write(tmp_path, name, f"text;label\n{text};x\nb;y\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *rest, **more: None)  # The csv is read at semicolons.
        assert rows(path) == [(text, "x"), ("b", "y")]


def test_numbers_where_labels_are_numbers(tmp_path: Path) -> None:
    """The first row holds `0`, the number of a column; it is a row all the same."""
    path = write(tmp_path, "a.tsv", '0\t3\ta "text\n1\t9\tother\n')
    assert rows(path, column="2", label_column="0") == [('a "text', "0"), ("other", "1")]
    counted = write(tmp_path, "b.tsv", "0\t1\ntext\tx\nother\ty\n")
    assert rows(counted, column="0", label_column="1") == [("text", "x"), ("other", "y")]
    years = write(tmp_path, "c.tsv", "2019\t2020\ntext\tx\nother\ty\n")
    assert rows(years, column="2019", label_column="2020") == [("text", "x"), ("other", "y")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A dataset of the hub with named classes, and a test split without labels."""
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["short", "long"])),
            "stars": datasets.Value("int64"),
        }
    )

    def split(texts: list[str], labels: list[int], tags: list[list[int]]) -> object:
        columns = {"text": texts, "label": labels, "tags": tags, "stars": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    splits = {
        "train": split(["a", "b", "c", "d"], [1, 0, 1, 0], [[0], [], [1, 0], [1]]),
        "validation": split(["e"], [0], [[1]]),
        "test": split(["f", "g"], [-1, -1], [[], []]),
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: splits)
    return splits


def test_a_dataset_with_named_classes(hub: dict[str, object]) -> None:
    with pytest.warns(UserWarning, match=r"set \(test\) has no labels .*--data.test-split"):
        corpus = load_labelled(LabelledData(dataset="a/set", test_fraction=0.4))
    assert corpus.validation == LabelledTexts(["e"], [("negative",)], "a/set (validation)")
    assert Counter(corpus.train.labels) == {("negative",): 1, ("positive",): 1}
    assert corpus.test is not None
    assert {*corpus.train.texts, *corpus.test.texts} == {"a", "b", "c", "d"}
    tags = load_labelled(
        LabelledData(dataset="a/set", label_column="tags", multi_label=True, test_fraction=0)
    )
    assert tags.train.labels == [("short",), (), ("long", "short"), ("long",)]
    assert tags.test is not None
    stars = load_labelled(
        LabelledData(dataset="a/set", label_column="stars", test_split="train", test_fraction=0)
    )
    assert stars.train.labels == [("1",), ("0",), ("1",), ("0",)]


def test_a_dataset_that_does_not_fit(hub: dict[str, object]) -> None:
    with pytest.raises(
        UserError, match=r"\(test\) row 1 has the label -1, .* choose another split"
    ):
        load_labelled(LabelledData(dataset="a/set", test_split="test"))
    with pytest.raises(
        UserError, match=r"no column `lable`, did you mean `label`.*--data.label-col"
    ):
        load_labelled(LabelledData(dataset="a/set", label_column="lable"))


def test_the_embedded_sentences() -> None:
    corpus = load_labelled(LabelledData())
    assert corpus.validation is not None
    assert corpus.test is not None
    texts = [*corpus.train.texts, *corpus.validation.texts, *corpus.test.texts]
    assert len(set(texts)) == len(texts) > 1000
    counts = Counter(corpus.train.labels)
    assert set(counts) == {("negative",), ("neutral",), ("positive",)}
    assert max(counts.values()) - min(counts.values()) < 10
    assert all(text == text.lower() and len(text.split()) < 25 for text in texts)


def test_single_words_do_not_tell_the_embedded_sentences_apart() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    corpus = load_labelled(LabelledData())
    assert corpus.test is not None
    words = text.CountVectorizer(token_pattern=r"\w+").fit(corpus.train.texts)
    model = linear_model.LogisticRegression(max_iter=1000)
    labels = [[label for (label,) in part.labels] for part in (corpus.train, corpus.test)]
    model.fit(words.transform(corpus.train.texts), labels[0])
    assert 0.5 < model.score(words.transform(corpus.test.texts), labels[1]) < 0.75


def test_settings_that_do() -> None:
    for name in ("a.csv", "a.tsv.gz", "a.txt", "a"):
        assert LabelledData(files=(Path(name),), separator=";").separator == ";"
    assert LabelledData(separator="auto").separator is None
    assert LabelledData(max_length="mean").max_length == "mean"
    assert "files" in LabelledData.changeable_on_resume


@real_data
def test_real_reviews() -> None:
    train, test = (REAL / "imdb" / f"imdb_{part}.tsv.gz" for part in ("train", "test"))
    settings = {"column": "2", "label_column": "0", "validation_fraction": 0.2}
    corpus = load(train, test_files=(test,), **settings)
    for part, count in ((corpus.train, 10_000), (corpus.validation, 2_500), (corpus.test, 12_500)):
        assert part is not None
        assert Counter(part.labels) == {("0",): count, ("1",): count}


@real_data
def test_real_lines_and_files(capfd: pytest.CaptureFixture) -> None:
    emotion = REAL / "emotion"
    corpus = load(emotion / "train.txt", test_files=(emotion / "test.txt",), validation_fraction=0)
    assert (len(corpus.train), len(corpus.test or ())) == (16_000, 2_000)
    assert Counter(corpus.train.labels)["joy",] == 5362
    polarity = load(*(REAL / "mr" / f"rt-polarity.{name}" for name in ("neg", "pos")), **WHOLE)
    assert Counter(polarity.train.labels) == {("neg",): 5331, ("pos",): 5331}
    with pytest.raises(UserError, match=r"label '2   ' in .* row 10678 has blanks around it"):
        load(REAL / "korean-chatbot" / "ChatbotData.csv", column="Q")
