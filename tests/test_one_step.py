"""The page that follows one training step names files and functions that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "one_step.md").read_text()


def test_each_section_names_what_its_file_holds():
    sections = re.findall(
        r"^## \d\. `([^`]+)`[^\n]*\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE
    )
    assert len(sections) == 8
    for path, text in sections:
        source = (ROOT / path).read_text()
        names = re.findall(r"`([A-Za-z_.]+)`", text)
        assert names
        for name in names:
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), f"{path} has no {name}"


def test_files_and_pages_exist():
    for path in re.findall(r"\b(?:jaxgen|examples)/[\w/]+\.py", PAGE):
        assert (ROOT / path).is_file(), path
    for page in re.findall(r"\]\(([\w/]+\.md)\)", PAGE):
        assert (ROOT / "docs" / page).is_file(), page
