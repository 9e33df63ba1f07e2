"""Pairs of texts: every format gives the same pairs, and parts are drawn by the source."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxgen.config import PairData
from jaxgen.data.pairs import PairCorpus, Pairs, load_pairs, read_pairs
from jaxgen.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the development corpora")
WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}
PAIRS = [("Go.", "Va !"), ('"Run", now!', "Cours; vite !"), ("ein Wort", "한 단어")]
NESTED = {"source_column": "translation.en", "target_column": "translation.fr"}


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    data = content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def load(*paths: Path, **settings: object) -> PairCorpus:
    return load_pairs(PairData(files=paths, **settings))


def listed(pairs: Pairs) -> list[tuple[str, str]]:
    return list(zip(pairs.sources, pairs.targets, strict=True))


def written(folder: Path, kind: str) -> tuple[dict[str, object], dict[str, object]]:
    """PAIRS in files of one kind: the settings that name them, and those of their columns."""
    tabs = "".join(f"{a}\t{b}\n" for a, b in PAIRS)
    fields = [(a.replace('"', '""'), b) for a, b in PAIRS]
    quoted = "".join(f'"{a}",{b}\n' for a, b in fields)
    swapped = "".join(f'{b},0,"{a}"\n' for a, b in fields)
    objects = [{"id": n, "translation": {"fr": b, "en": a}} for n, (a, b) in enumerate(PAIRS)]
    flat = [{"target": b, "id": 1, "source": a} for a, b in PAIRS]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), folder / "a.parquet")
        return {"files": (folder / "a.parquet",)}, NESTED
    if kind == "two files":
        sources = write(folder, "a.en", "".join(f"{a}\r\n" for a, _ in PAIRS))
        targets = write(folder, "a.fr.gz", "\n".join(b for _, b in PAIRS))
        return {"source_files": (sources,), "target_files": (targets,)}, {}
    numbers = {"source_column": "0", "target_column": "1"}
    name, content, columns = {
        "tsv": ("a.tsv", tabs, {}),
        "tsv with numbers": ("a.tsv.gz", tabs, numbers),
        "tsv with header": ("a.tsv", "Q\tA\n" + tabs, {"source_column": "Q", "target_column": "A"}),
        "lines with a tab": ("a.txt", tabs, {}),
        "three columns": ("a.txt", tabs.replace("\n", "\tCC\n"), numbers),
        "csv": ("a.csv", quoted, {}),
        "csv with header": ("a.csv", "target,n,source\n" + swapped, {}),
        "bars": ("a.txt", tabs.replace("\t", "|"), {"separator": "|"}),
        "jsonl": ("a.jsonl", "\n".join(map(json.dumps, flat)), {}),
        "nested json": ("a.json", json.dumps(objects), NESTED),
    }[kind]
    return {"files": (write(folder, name, content),)}, columns


KINDS = ("tsv", "tsv with numbers", "tsv with header", "lines with a tab", "three columns", "csv")
KINDS += ("csv with header", "bars", "jsonl", "nested json", "parquet", "two files")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_pairs(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    files, columns = written(tmp_path, kind)
    assert listed(load_pairs(PairData(**files, **columns, **WHOLE)).train) == PAIRS
    said = capfd.readouterr().err
    assert ("read as a source and a target in each line" in said) == (
        kind in ("tsv", "lines with a tab", "csv", "bars")
    )
    # As other files of a run: of the same settings, or of others with such columns.
    assert listed(read_pairs(PairData(**files, **columns), **files)) == PAIRS
    other = PairData(files=("other.txt",), **columns) if columns else PairData()
    assert listed(read_pairs(other, **files)) == PAIRS


def test_several_files_and_held_out_ones(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("one", "two", "three")}
    names = []
    for name, folder in folders.items():
        folder.mkdir()
        names.append(write(folder, "a.tsv", f"{name} a\t{name} b\n"))
        write(folder, "a.en", f"{name} 1\n{name} 2\n")
        write(folder, "a.fr", f"{name} eins\n{name} zwei\n")
    corpus = load(names[0], names[1], validation_files=(names[2],), test_fraction=0)
    assert listed(corpus.train) == [("one a", "one b"), ("two a", "two b")]
    assert corpus.validation == Pairs(["three a"], ["three b"], str(names[2]))
    assert corpus.test is None
    sources, targets = (
        tuple(folder / f"a.{side}" for folder in folders.values()) for side in ("en", "fr")
    )
    corpus = load_pairs(
        PairData(
            source_files=sources[:2],
            target_files=targets[:2],
            test_source_files=sources[2:],
            test_target_files=targets[2:],
            validation_fraction=0,
            lowercase=True,
        )
    )
    assert listed(corpus.train)[2:] == [("two 1", "two eins"), ("two 2", "two zwei")]
    assert corpus.test is not None
    assert listed(corpus.test) == [("three 1", "three eins"), ("three 2", "three zwei")]


def test_parts_are_drawn_by_source_and_seed(tmp_path: Path) -> None:
    rows = [(f"source {n // 2}", f"target {n}") for n in range(200)]
    path = write(tmp_path, "a.tsv", "".join(f"{a}\t{b}\n" for a, b in rows))

    def parts(seed: int) -> list[list[tuple[str, str]]]:
        corpus = load(path, seed=seed, validation_fraction=0.1, test_fraction=0.2)
        assert corpus.validation is not None
        assert corpus.test is not None
        return [listed(part) for part in (corpus.train, corpus.validation, corpus.test)]

    drawn = parts(0)
    assert [len(part) for part in drawn] == [140, 20, 40]
    assert sorted(pair for part in drawn for pair in part) == sorted(rows)
    sources = [{source for source, _ in part} for part in drawn]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 100  # none in two parts
    assert parts(0) == drawn
    assert parts(1)[1] != drawn[1]
    with pytest.raises(UserError, match=r"share of 0.001 of the 100 sources of .* for test holds"):
        load(path, test_fraction=0.001)


def test_lower_case(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "Über UNS\tAbout US\n")
    assert listed(load(path, lowercase=True, **WHOLE).train) == [("über uns", "about us")]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset of the hub with a nested column of both languages, and a part of its own."""
    import datasets

    def split(*pairs: tuple[str, str]) -> datasets.Dataset:
        rows = {"translation": [{"de": a, "en": b} for a, b in pairs], "id": ["x"] * len(pairs)}
        features = datasets.Features(
            {
                "translation": datasets.Translation(languages=("de", "en")),
                "id": datasets.Value("string"),
            }
        )
        return datasets.Dataset.from_dict(rows, features=features)

    splits = {
        "train": split(("ein", "a"), ("zwei", "two"), ("drei", "three")),
        "validation": split(("vier", "four")),
    }
    flat = {"train": datasets.Dataset.from_dict({"source": ["a"], "target": ["b"], "n": [1]})}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda **options: flat if options["path"] == "flat" else splits
    )


def test_nested_columns_of_a_dataset(hub: None) -> None:
    columns = {"source_column": "translation.en", "target_column": "translation.de"}
    corpus = load_pairs(PairData(dataset="a/set", test_fraction=0, **columns))
    assert listed(corpus.train) == [("a", "ein"), ("two", "zwei"), ("three", "drei")]
    assert corpus.validation == Pairs(["four"], ["vier"], "a/set (validation)")
    assert listed(load_pairs(PairData(dataset="flat", **WHOLE)).train) == [("a", "b")]
    with pytest.raises(
        UserError,
        match=r"a/set \(train\) has 3 columns and none is named as source or target; there are: "
        r"translation.de, translation.en, id; name two with --data.source-column and --data.targ",
    ):
        load_pairs(PairData(dataset="a/set"))
    with pytest.raises(
        UserError,
        match=r"no column `translation.fr`, did you mean .*; there are: translation.de, "
        r"translation.en, id, translation; choose one with --data.target-column",
    ):
        load_pairs(PairData(dataset="a/set", **columns | {"target_column": "translation.fr"}))


def test_embedded_pairs() -> None:
    corpus = load_pairs(PairData(examples=1000))
    assert corpus.validation is not None
    assert corpus.test is not None
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [800, 100, 100]
    # The days of the test part, written in other ways than those trained on.
    unseen = corpus.apart["unseen_formats"]
    assert unseen.targets == corpus.test.targets
    assert not {*unseen.sources} & {*corpus.test.sources, *corpus.train.sources}
    sums = load_pairs(PairData(embedded="addition", examples=1000, digits=2))
    assert len(sums.train) == 800
    assert sums.apart == {}
    assert all(eval(source) == int(target) for source, target in listed(sums.train))
    assert load_pairs(PairData(examples=50, test_fraction=0)).apart == {}


@real_data
def test_real_pairs() -> None:
    fra = REAL / "fra-eng" / "fra_2017-09-29.txt"
    corpus = load(fra)
    assert corpus.validation is not None
    assert corpus.test is not None
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 142_787
    assert not {*corpus.train.sources} & {*corpus.test.sources}
    multi30k = [
        REAL / "multi30k" / f"{part}.lc.norm.tok.{side}"
        for part in ("train", "val")
        for side in ("de", "en")
    ]
    corpus = load_pairs(
        PairData(
            source_files=multi30k[:1],
            target_files=multi30k[1:2],
            validation_source_files=multi30k[2:3],
            validation_target_files=multi30k[3:],
            test_fraction=0,
        )
    )
    assert corpus.validation is not None
    assert (len(corpus.train), len(corpus.validation)) == (29_000, 1014)
    chat = REAL / "korean-chatbot" / "ChatbotData.csv"
    assert len(load(chat, source_column="Q", target_column="A", **WHOLE).train) == 11_823
    with pytest.raises(UserError, match=r"3 columns and none .* 0 \('Q'\), 1 \('A'\), 2 \('label'"):
        load(chat)
