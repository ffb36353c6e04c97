"""The report in a real browser: hostile text does nothing, the policy is kept, nothing spills over a phone's edge."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tunesmith.report import write_report
from tunesmith.run.directory import RunDir

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page as the browser has it after loading, and every message on its console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_hostile_text_does_nothing_in_a_browser(hostile_run: RunDir, tmp_path: Path) -> None:
    dom, console = browse(write_report(hostile_run), tmp_path / "profile")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None
    assert title[1] == "tiny: tunesmith report"
    assert "<script" not in dom
    assert "<img" not in dom
    assert dom.count("&lt;script&gt;document.title='owned'&lt;/script&gt;") > 50


def test_the_browser_check_sees_a_page_that_breaks_the_policy(copied_run: RunDir, tmp_path: Path) -> None:
    page = write_report(copied_run)
    broken = page.read_text(encoding="utf-8").replace("<main", "<script>document.title = 'owned'</script><main", 1)
    page.write_text(broken, encoding="utf-8")
    dom, console = browse(page, tmp_path / "profile")
    assert "<title>tiny: tunesmith report</title>" in dom
    assert any("Content Security Policy" in line for line in console)


def test_the_essentials_fit_four_printed_pages(copied_run: RunDir, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    browse(write_report(copied_run), tmp_path / "profile", f"--print-to-pdf={paper}")
    assert 1 <= len(re.findall(rb"/Type\s*/Page[^s]", paper.read_bytes())) <= 4
