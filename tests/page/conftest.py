"""The browser, and the page over a captioner that only remembers what it is asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest
from ofa_client.images import read_image
from ofa_client.results import Caption
from playwright.sync_api import expect, sync_playwright

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

EXAMPLES = Path(__file__).parents[2] / "examples/images"
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT_MS = 60_000

expect.set_options(timeout=WAIT_MS)


class Remembering:
    """Answers with the picture's name, after reading its file, once it may answer."""

    def __init__(self):
        self.asked = []
        self.error = None
        self.may_answer = threading.Event()
        self.may_answer.set()

    async def captions(self, source, **options):
        self.asked.append((source, options))
        while not self.may_answer.is_set():
            await asyncio.sleep(0.02)
        if self.error:
            raise self.error
        if isinstance(source, Path):
            read_image(source)
        return [Caption(getattr(source, "name", source), -0.5, timing_ms={"encode": 1.0})]

    @property
    def pictures(self):
        return [getattr(source, "name", source) for source, _ in self.asked]


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_window(browser):
    """Open a page in a window of its own."""
    contexts = []

    def open_page(url, width=1280, height=900, locale="en-US"):
        context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(url)
        page.locator(".ofa-waiting").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """The folder of a page's uploads."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def captioner():
    return Remembering()


@pytest.fixture
def served(captioner, uploads):
    """The page over the captioner that remembers."""
    from ofa_client.page.app import build, launch

    page = build(captioner, sorted(EXAMPLES.glob("*.png")))
    launch(page, "127.0.0.1", 0)
    yield page
    captioner.may_answer.set()
    page.close(verbose=False)
