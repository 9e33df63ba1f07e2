"""The page in a real browser: what people see and press, and what is then asked of the service.

Needs the package playwright and a Chromium or Chrome of the machine; skipped without them.
"""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from tests.serving.http_server import call, running
from tests.tiny_classifier import NAMES

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxgen.serving.app import create_app
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.options import ServeOptions
from tests.serving.fake_engine import FakeEngine, fake_model, make_tokenizer
from tests.serving.tiny_site import ATTENTION, LABELS, Site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
browser_only = pytest.mark.skipif(
    find_spec("playwright") is None or CHROMIUM is None,
    reason="needs playwright and a Chromium",
)
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@pytest.fixture(scope="module")
def site() -> Site:
    return Site()


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    with running(create_app(site.models)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page of a model; nothing may go wrong in it, or be asked of another server."""
    contexts, odd = [], list[str]()

    def open_page(model: str, origin: str = address, **options: Any) -> Any:
        context = browser.new_context(**{"locale": "en-US", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: odd.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(origin) or odd.append(asked.url))
        page.goto(f"{origin}/#{model}")
        page.wait_for_selector("main section:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert odd == []


def text_of(page: Any) -> str:
    page.wait_for_selector("#stop", state="hidden")
    found: str = page.locator(".surprise").first.inner_text()
    return found


def until(page: Any, check: Callable[[], bool]) -> None:
    """Wait until something holds; the page's policy lets no text be run as a script for this."""
    for _ in range(300):
        if check():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it never came to be")


def write(page: Any, prompt: str, length: str = "4") -> None:
    """Ask for 16 tokens, or so many as the slider gives."""
    page.fill("#prompt", prompt)
    page.locator("#length").fill(length)
    page.click("#go")
    page.wait_for_selector("#more:not([hidden])")


def test_files_are_served_with_a_strict_policy(address: str) -> None:
    with urllib.request.urlopen(f"{address}/", timeout=10) as answer:
        text, headers = answer.read().decode(), answer.headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    for name in ("style.css", "main.js", "icon.svg"):
        assert f"static/{name}" in text
        again = urllib.request.Request(f"{address}/static/{name}")
        with urllib.request.urlopen(again, timeout=10) as answer:
            tag = answer.headers["ETag"]
            assert "https://" not in answer.read().decode()
        again.add_header("If-None-Match", tag)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(again, timeout=10)
        assert error.value.code == 304
        error.value.close()
    assert call(address, "/static/app.py")[0] == 404
    assert "/static" not in json.dumps(call(address, "/openapi.json")[1])


@browser_only
def test_a_text_is_written_and_shaded(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    assert page.title() == "demo · jaxgen"
    page.locator("#temperature").fill("0.8")
    page.locator("#top-p").fill("0.9")
    page.fill("#seed", "7")
    write(page, "abc")
    assert text_of(page) == "abcdefghijkabcdefgh"
    asked = site.engine.submitted[-1]
    assert (asked.max_new_tokens, asked.seed, asked.score_prompt) == (16, 7, True)
    assert asked.options == {"temperature": 0.8, "top_p": 0.9}
    spans = page.locator(".surprise span")
    assert spans.count() == 19
    shades = [float(spans.nth(i).evaluate("x => x.style.getPropertyValue('--s')")) for i in (2, 18)]
    # The third character of the prompt has -3 nats, or 4.33 bits; the sixteenth new one -1.6.
    assert shades == pytest.approx([(3 / np.log(2) - 1) / 8, (1.6 / np.log(2) - 1) / 8], abs=2e-3)
    assert page.locator(".surprise .prompt").count() == 3
    assert "16 tokens" in page.locator("article footer").inner_text()
    page.uncheck("#shade")
    assert not page.locator("#write").evaluate("x => x.classList.contains('shaded')")


@browser_only
def test_other_characters_are_shown_and_taken(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    write(page, "abc")
    text_of(page)
    page.locator(".surprise span").nth(5).hover()
    box = page.locator("#likely")
    assert "f" in box.inner_text()
    assert box.locator("button").count() == 6  # the five likeliest, and the one that came
    page.focus(".surprise")
    for key in ("Home", *["ArrowRight"] * 4):
        page.keyboard.press(key)
    assert page.locator(".surprise .current").inner_text() == "e"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    taken = page.locator("#likely button:focus span").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector("#more:not([hidden])")
    start = "abcdefghijk".index(taken) + 1
    assert text_of(page) == "abcd" + taken + ("abcdefghijk" * 3)[start : start + 16]
    assert site.engine.tokenizer.decode(site.engine.submitted[-1].prompt) == f"abcd{taken}"


@browser_only
def test_it_goes_on_from_where_it_ended(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    write(page, "ab")
    before = text_of(page)
    page.click("#more")
    until(page, lambda: len(text_of(page)) == len(before) + 16)
    assert text_of(page).startswith(before)
    asked = site.engine.submitted[-1]
    assert asked.after is not None
    assert asked.prompt == ()


@browser_only
def test_keys_write_and_stop(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    page.fill("#prompt", "a")
    site.engine.gate.clear()
    try:
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector("article.busy")
        assert page.locator("#stop").is_visible()
        page.keyboard.press("Escape")
        page.wait_for_selector("#stop", state="hidden")
        page.wait_for_selector("article.busy", state="detached")
        assert "stopped" in page.locator("article footer").inner_text()
    finally:
        site.engine.gate.set()
    until(page, lambda: not site.engine.open)  # its slot is free


@browser_only
def test_four_temperatures_side_by_side(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    page.check("#four")
    assert page.locator("article").count() == 4
    del site.engine.submitted[:]
    write(page, "a")
    text_of(page)
    asked = site.engine.submitted
    assert sorted(one.options["temperature"] for one in asked) == [0.2, 0.5, 0.8, 1.2]
    assert len({one.seed for one in asked}) == 1
    tops = [page.locator("article").nth(i).bounding_box()["y"] for i in range(4)]
    assert max(tops) - min(tops) < 1


@browser_only
def test_the_dial_asks_for_labels(open_page: Any, site: Site) -> None:
    page = open_page("moods")
    assert page.locator(".ring span").all_inner_texts() == list(LABELS)
    write(page, "a")
    assert "label" not in site.labelled.submitted[-1].options
    page.focus("#dial")
    page.keyboard.press("ArrowRight")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.locator("#dial-says").inner_text() == "fear\nstrength 1.5"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#dial-says").inner_text() == "fear 75 %, anger 25 %\nstrength 1.5"
    write(page, "a")
    options = site.labelled.submitted[-1].options
    assert (options["label"], options["guidance"]) == ("fear=0.75,anger=0.25", 1.5)
    before = len(site.labelled.submitted)
    page.locator(".ring span").nth(2).click()
    page.wait_for_selector("#more:not([hidden])")
    assert len(site.labelled.submitted) == before + 1  # a second one could not be stopped
    assert page.locator("#dial-says").inner_text() == "anger\nstrength 1.5"
    text_of(page)
    assert site.labelled.submitted[-1].options["label"] == "anger"


@browser_only
def test_a_fault_is_shown(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    page.fill("#prompt", "a")
    site.engine.room = 0
    try:
        page.click("#go")
        page.wait_for_selector("#write-fault:not([hidden])")
        assert "waiting" in page.locator("#write-fault").inner_text()
    finally:
        site.engine.room = 1000
    write(page, "axb!")
    assert page.locator("#write-fault").is_hidden()
    page.wait_for_selector("#write-warning:not([hidden])")
    assert "!" in page.locator("#write-warning").inner_text()


@browser_only
def test_bars_and_the_words_that_decided(open_page: Any) -> None:
    page = open_page("reviews")
    page.fill("#sample", "bad and  dull but good")
    page.wait_for_selector("#why:not([hidden])")
    assert page.locator("#verdict").inner_text() == "negative"
    assert page.locator(".bars .name").all_inner_texts() == list(NAMES)
    shares = [float(text.rstrip(" %")) for text in page.locator(".bars .share").all_inner_texts()]
    # Log-odds of 2 * (1.5 + 0.5 - 1): 2 nats.
    assert shares == pytest.approx([88, 12], abs=0.5)
    assert page.locator("#words").inner_text() == "bad and  dull but good"
    assert page.locator("#words .for").first.inner_text() == "bad"
    assert page.locator("#words .against").last.inner_text() == "good"
    page.locator(".bars button").last.click()
    until(page, lambda: page.locator("#words .for").first.inner_text() == "good")
    assert "positive" in page.locator("#why-title").inner_text()
    page.locator("#threshold").fill("0.1")
    until(page, lambda: page.locator("#verdict").inner_text() == "positive")


@browser_only
def test_the_attention_map(open_page: Any, site: Site) -> None:
    page = open_page("german")
    page.fill("#source", "three words here")
    page.wait_for_selector("#attention:not([hidden])")
    assert page.locator("#best label span").all_inner_texts() == ["drei Worte", "zwei Worte"]
    texts, options = site.translator.asked[-1]
    assert (texts, options["beam_size"], options["n_best"]) == (["three words here"], 4, 4)
    assert options["attention"] is True
    page.locator("#aligned-target span").nth(1).hover()
    shade = "x => Number(x.style.getPropertyValue('--s'))"
    sources = page.locator("#aligned-source span")
    assert [sources.nth(i).evaluate(shade) for i in range(3)] == ATTENTION[1]
    page.focus("#aligned-target")
    page.keyboard.press("ArrowRight")
    assert [sources.nth(i).evaluate(shade) for i in range(3)] == ATTENTION[0]
    label = page.locator("#aligned-target span").first.get_attribute("aria-label")
    assert label == "drei: read from three"
    # A cell of weight 0.9 is darker than one of weight 0.
    cell = "(x) => { const c = document.getElementById('map'); const d = c.getContext('2d')"
    cell += ".getImageData(c.names.left + x * c.cell + 8, c.names.top + 8, 1, 1).data;"
    cell += " return d[0] + d[1] + d[2]; }"
    assert page.evaluate(cell, 0) < page.evaluate(cell, 2) - 100


@browser_only
@pytest.mark.parametrize("model", ["demo", "moods", "reviews", "german"])
def test_it_fits_a_phone_in_the_dark_in_korean(open_page: Any, model: str) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    page = open_page(model, color_scheme="dark", locale="ko-KR", **phone)
    assert page.locator("html").get_attribute("lang") == "ko"
    for box, text in (("#prompt", "abc"), ("#sample", "good bad"), ("#source", "three words")):
        if page.locator(box).is_visible():
            page.fill(box, text)
    if page.locator("#go").is_visible():
        page.locator("#four").check()
        page.locator("#go").click()
        page.wait_for_selector("#more:not([hidden])")
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(dark) == "rgb(21, 21, 26)"
    page.locator("#theme").click()
    assert page.evaluate(dark) == "rgb(250, 249, 246)"
    page.locator("#language").click()
    assert page.locator("html").get_attribute("lang") == "en"
    page.reload()
    page.wait_for_selector("main section:not([hidden])")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate(dark) == "rgb(250, 249, 246)"


@browser_only
def test_both_languages_say_everything(open_page: Any) -> None:
    page = open_page("demo")
    every = """async () => {
      const { words } = await import('/static/words.js');
      const names = (tree) => Object.entries(tree).flatMap(([name, value]) =>
        typeof value === 'object' ? names(value).map((one) => name + '.' + one) : [name]);
      const used = [...document.querySelectorAll('[data-t], [data-t-label], [data-t-placeholder]')]
        .flatMap((x) => [x.dataset.t, x.dataset.tLabel, x.dataset.tPlaceholder]).filter(Boolean);
      return [names(words.en), names(words.ko), used];
    }"""
    english, korean, used = page.evaluate(every)
    assert sorted(english) == sorted(korean)
    assert set(used) <= set(english)


@browser_only
def test_a_model_that_joins_is_offered(open_page: Any, site: Site) -> None:
    page = open_page("demo")
    site.models.add(replace(next(iter(site.models)), name="new"))
    try:
        page.evaluate("dispatchEvent(new Event('focus'))")
        page.wait_for_selector("#model option[value=new]", state="attached")
        page.select_option("#model", "new")
        assert page.title() == "new · jaxgen"
        assert page.url.endswith("#new")
    finally:
        site.models.remove("new")


@browser_only
def test_a_key_is_asked_for_once(browser: Any, open_page: Any) -> None:
    engine = FakeEngine(make_tokenizer())
    models = Models()
    models.add(ServedModel("demo", "language_model", fake_model(engine.tokenizer), engine=engine))
    with running(create_app(models, ServeOptions(api_key="open sesame"))) as address:
        context = browser.new_context(locale="en-US")
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#key[open]")
        page.fill("#key-text", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#write:not([hidden])")
        write(page, "a")
        assert text_of(page).startswith("abcdef")
        context.close()
