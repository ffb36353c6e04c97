"""The page in a real browser: type, stream, stop, switch, vote blind, hostile text, the width of a phone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser driver: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = '<img src=x onerror="window.broken=1"><script>window.broken=1</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def is_problem(message: Any) -> bool:
    return message.type == "error" and "429" not in message.text  # as one test answers


@pytest.fixture
def page(browser: Any, served: Any) -> Iterator[Any]:
    """The page, open; what it complains of, or asks of other hosts, fails the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("request", lambda request: None if request.url.startswith(served.url) else problems.append(request.url))
    page.goto(served.url)
    page.locator("#sides article").nth(1).wait_for()
    yield page
    page.close()
    assert problems == []


def set_slider(page: Any, name: str, value: float) -> None:
    page.eval_on_selector(f"#{name}", f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')); }}")


def write(page: Any, prompt: str, **sliders: float) -> list[str]:
    """Type a prompt, let both write by keyboard alone, and wait for the training rows."""
    for name, value in sliders.items():
        set_slider(page, name, value)
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")
    page.locator("#status", has_text="Done.").wait_for()
    page.wait_for_selector("article .row:not([hidden])")
    return [str(text) for text in page.locator("#sides .text").all_inner_texts()]


def test_both_models_write_beside_each_other(page: Any, served: Any) -> None:
    tuned, base = write(page, "A boy", max_tokens=12)
    assert tuned.startswith("A boy")
    assert tuned != base
    seed = int(page.input_value("#seed"))
    asked = {"prompt": "A boy", "max_tokens": 12, "seed": seed, "temperature": 0.8}
    for model, shown in (("tuned", tuned), ("base", base)):
        answer = served.ask("POST", "/v1/completions", {"model": model, **asked}).json
        whole = "A boy" + answer["choices"][0]["text"]
        assert " ".join(shown.split()) == " ".join(whole.split())
    token = page.locator("#sides .token").first
    token.hover()
    assert "%" in page.locator("#sides .detail").first.inner_text()


def test_by_keyboard_alone(page: Any) -> None:
    write(page, "A boy", max_tokens=6)
    page.locator("#sides .text").nth(1).focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#sides .detail").nth(1).inner_text()
    page.keyboard.press("ArrowRight")
    assert "%" in first
    assert page.locator("#sides .detail").nth(1).inner_text() != first
    page.locator("#prompts button").first.focus()
    page.keyboard.press("Enter")
    assert page.input_value("#prompt") == "One fine morning"


def test_stop_ends_both_and_frees_their_rows(page: Any, served: Any) -> None:
    set_slider(page, "max_tokens", 490)
    set_slider(page, "temperature", 2)
    page.fill("#prompt", "A boy")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#sides .token")
    page.keyboard.press("Escape")
    page.locator("#status", has_text=re.compile("Stopped|Done")).wait_for()
    served.wait_until(lambda: served.engine.num_rows == 0)


def test_history_and_openings(page: Any) -> None:
    write(page, "A boy", max_tokens=4)
    write(page, "A girl", max_tokens=5)
    page.click("#history-box summary")
    assert page.locator("#history button").count() == 2
    page.locator("#history button").nth(1).click()
    assert page.input_value("#prompt") == "A boy"
    assert page.input_value("#max_tokens") == "4"
    page.click("#openings-box summary")
    opening = page.locator("#openings button").first
    text = opening.inner_text()
    opening.click()
    assert page.input_value("#prompt") == text


def test_a_stop_string(page: Any) -> None:
    page.fill("#stop", "a")
    tuned, _ = write(page, "B", max_tokens=12)
    assert "a" not in tuned[1:]


def test_hostile_text_stays_text(page: Any) -> None:
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            body=f"data: {_chunk(HOSTILE)}\n\ndata: [DONE]\n\n",
        ),
    )
    page.route("**/playground/rows", lambda route: route.fulfill(json={"rows": [], "why": HOSTILE}))
    texts = write(page, HOSTILE)
    assert texts == [HOSTILE * 2] * 2
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0


def _chunk(text: str) -> str:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}]})


def test_a_blind_vote(page: Any) -> None:
    set_slider(page, "max_tokens", 6)
    page.click("#tab-blind")
    page.keyboard.press("n")
    page.wait_for_selector("#choices:not([hidden])")
    assert page.inner_text("#who-a") == ""
    page.keyboard.press("a")
    page.locator("#who-a", has_text="was").wait_for()
    assert {page.inner_text("#who-a"), page.inner_text("#who-b")} == {"was tuned", "was base"}
    assert "win rate" in page.inner_text("#standing")
    page.click("#tab-write")
    assert page.is_visible("#sides")


def test_a_server_that_is_gone_is_told(page: Any) -> None:
    page.route("**/v1/completions", lambda route: route.fulfill(status=429, json={"error": {"message": "too many"}}))
    page.fill("#prompt", "A")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".detail.error")
    assert page.locator(".detail.error").first.inner_text() == "too many"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    write(page, "Averyveryveryveryveryveryveryveryveryveryveryverylongword", max_tokens=8)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    bright = [sum(int(part) for part in value[4:-1].split(",")) for value in (ink, paper)]
    assert (bright[0] > bright[1]) == (scheme == "dark")
