"""The live page in a real browser: it grows by itself, keeps the policy, fits a phone, and can be used by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.run.directory import RunDir

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

HOSTILE = """</pre><script>document.title='owned'</script><img src=x onerror="document.title='owned'">"""
PHONE = {"width": 375, "height": 740}


def opened(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    """A page and what its console says."""
    page, said = browser.new_page(**options), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    return page, said


def test_the_page_grows_with_the_run(browser: Any, growing: Any, serve_page: Callable[..., str]) -> None:
    page, said = opened(browser, serve_page(growing.run_dir.path, "--price", "1.5"))
    page.get_by_text("No step is logged yet.").wait_for()
    growing.evaluate(5.5, ", before")
    growing.steps(12)
    page.locator("svg path.line.train").first.wait_for(state="attached")
    growing.evaluate(4.25, " the tuned model wrote this")
    page.get_by_text("5.500 → 4.250").wait_for()
    page.get_by_text("the tuned model wrote this").first.wait_for()
    assert "12/100" in page.inner_text("header")
    assert "at 1.5 an hour" in page.inner_text("main")
    assert page.title() == "growing: running 12%"
    growing.finish()
    page.get_by_text("finished").wait_for()
    assert said == []


def test_a_page_whose_server_goes_away_says_so(browser: Any, growing: Any, serve_page: Callable[..., str]) -> None:
    address = serve_page(growing.run_dir.path)
    page, _ = opened(browser, address)
    page.route("**/live/**", lambda route: route.abort())
    page.get_by_text("No answer from the server").wait_for()
    page.unroute("**/live/**")
    page.get_by_text("No answer from the server").wait_for(state="hidden")


def test_hostile_text_does_nothing(browser: Any, growing: Any, serve_page: Callable[..., str]) -> None:
    page, said = opened(browser, serve_page(growing.run_dir.path))
    growing.run_dir.log(HOSTILE)
    growing.evaluate(5.5, HOSTILE)
    growing.recorder.doing(HOSTILE)
    page.locator("article.sample").wait_for()
    page.locator("header", has_text="owned").wait_for()
    assert page.inner_text("article.sample").count("<script>") == 1
    assert page.locator("main script, main img, header script, header img").count() == 0
    assert "owned" not in page.title()
    assert said == []
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    playwright.expect(page.locator("body > img")).to_have_js_property("complete", True)
    assert any("Content Security Policy" in line for line in said), "the policy itself holds"
    assert page.title() != "1"


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_spills_over_a_phones_edge(
    dark: bool, browser: Any, tiny_run: RunDir, serve_page: Callable[..., str]
) -> None:
    scheme = "dark" if dark else "light"
    page, said = opened(browser, serve_page(tiny_run.path), viewport=PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.strip("rgb()").split(",")) < 150) == dark
    assert page.locator("figure.wide .on-narrow").is_visible()
    assert said == []


def test_the_log_is_reached_and_moved_by_keyboard(browser: Any, growing: Any, serve_page: Callable[..., str]) -> None:
    for number in range(200):
        growing.run_dir.log(f"line {number}")
    page, _ = opened(browser, serve_page(growing.run_dir.path))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.part") == "log":
            break
    log = page.locator("pre[data-part=log]")
    at_end = log.evaluate("log => log.scrollTop")
    assert at_end > 0, "the last lines are seen"
    page.keyboard.press("Home")
    playwright.expect(log).to_have_js_property("scrollTop", 0)
    growing.run_dir.log("one more line")
    page.get_by_text("one more line").wait_for(state="attached")
    assert log.evaluate("log => log.scrollTop") == 0, "who reads further up is left there"
    assert page.evaluate("document.activeElement.dataset.part") == "log"


def test_a_folder_leads_to_its_runs(
    browser: Any, growing: Any, copied_run: RunDir, serve_page: Callable[..., str]
) -> None:
    copied_run.path.rename(growing.run_dir.path.parent / "tiny")
    page, said = opened(browser, serve_page(growing.run_dir.path.parent))
    assert page.title() == "1 of 2 runs alive"
    page.get_by_role("link", name="growing").click()
    page.wait_for_url("**/run/growing")
    growing.steps(3)
    page.get_by_text("3/100").wait_for()
    page.get_by_role("link", name="All runs").click()
    page.get_by_text("step 3 of 100").wait_for()
    assert said == []


def test_a_ticket_opens_the_page_of_a_server_with_a_key(
    browser: Any, growing: Any, serve_page: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("a-key-of-this-test-alone")
    address = serve_page(growing.run_dir.path, "--api-key-file", str(tmp_path / "key"))
    page, _ = opened(browser, address)
    assert "ticket" not in page.url
    assert page.title() == "growing: running 0%"
    stranger = browser.new_context().new_page()
    stranger.goto(address)
    assert "growing" not in stranger.content()
    stranger.get_by_label("Key of this server").fill("a-key-of-this-test-alone")
    stranger.get_by_role("button").click()
    stranger.get_by_role("heading", name="growing").wait_for()
