"""The example of a client: it asks a server on this machine for all that it shows."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from serving.http_server import running
from serving.tiny_site import Site

from jaxgen.serving.app import create_app
from jaxgen.serving.options import ServeOptions

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.py"


def test_it_asks(capsys: pytest.CaptureFixture[str]) -> None:
    main: Any = runpy.run_path(str(EXAMPLE))["main"]
    app = create_app(Site().models, ServeOptions(api_key="sesame"))
    with running(app) as address:
        said = main(address, key="sesame", max_tokens=5)
        with pytest.raises(SystemExit, match="401: this server asks for a key"):
            main(address)
    streamed, best, texts = said["demo"]
    # The prompt's characters are unknown to this tokenizer; what follows them is its first token.
    assert streamed == best == "bcdef"
    assert list(texts) == [0.2, 0.5, 0.8, 1.1]
    assert list(said) == ["demo", "moods", "reviews", "german"]
    assert (said["reviews"], said["german"]) == (("positive", "good"), "drei Worte")
    shown = capsys.readouterr().out
    assert "demo, as it is written:\nThe bcdef\n" in shown
    assert "--- temperature 0.8\nThe " in shown


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 100
