"""``make test-page``: the page as a visitor uses it, in Debian's Chromium, over the bundled checkpoint.

It needs a server at ``OFA_URL``, and ``apt-get install chromium``; ``OFA_SCREENSHOT`` also writes the README's picture.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ofa_client import errors
from ofa_client.page.render import captions_html, error_html
from ofa_client.page.texts import LANGUAGES, TEXTS, preferred_language
from ofa_client.results import Caption
from PIL import Image
from playwright.sync_api import expect, sync_playwright

EXAMPLES = Path(__file__).parents[2] / "examples"
KNOWN = json.loads((EXAMPLES / "captions.json").read_text(encoding="utf-8"))
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT_MS = 60_000


@pytest.fixture(scope="session")
def page_url():
    """The page, served over the server at ``OFA_URL``."""
    if "OFA_URL" not in os.environ:
        pytest.skip("needs a captioning server at OFA_URL: make test-page")
    command = [sys.executable, "-m", "ofa_client.page", "--port", "0", "--examples", str(EXAMPLES / "images")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line)[0]
        process.terminate()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page_url):
    """Open the page in a window of its own."""
    contexts = []

    def open_page(width=1280, height=900, locale="en-US"):
        context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(page_url)
        page.locator(".ofa-waiting").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def picture(width, height):
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(file, "PNG")
    return file.getvalue()


def upload(page, name, data=None):
    file = EXAMPLES / "images" / name if data is None else {"name": name, "mimeType": "image/jpeg", "buffer": data}
    page.locator("input[type=file]").first.set_input_files(file)


def best(page):
    return page.locator(".ofa-captions .ofa-text").first


def test_an_uploaded_picture_gets_captions_scores_and_times(visit):
    page = visit()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"], timeout=WAIT_MS)
    assert page.locator(".ofa-captions li").count() == 3
    scores = [float(text) for text in page.locator(".ofa-score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert page.locator(".ofa-times li").count() == 1 + 5
    if "OFA_SCREENSHOT" in os.environ:
        page.set_viewport_size({"width": 1280, "height": 680})
        page.wait_for_timeout(500)
        page.screenshot(path=os.environ["OFA_SCREENSHOT"])


def test_the_number_of_captions_is_an_option(visit):
    page = visit()
    page.get_by_text("Options").click()
    number = page.get_by_label("number input for Captions")
    number.wait_for()
    page.wait_for_timeout(1000)  # as a visitor needs to reach for it; the options are made when they are opened
    number.fill("2")
    number.press("Tab")
    expect(page.get_by_label("range slider for Captions")).to_have_value("2")
    upload(page, "owl.png")
    expect(page.locator(".ofa-captions li")).to_have_count(2, timeout=WAIT_MS)


@pytest.mark.parametrize("size", [(300, 900), (900, 300)])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_picture_is_shown_whole(visit, size, width):
    page = visit(width=width)
    upload(page, "long.png", picture(*size))
    best(page).wait_for()
    shown, frame = (page.locator(f"#picture{inside}").bounding_box() for inside in (" img", ""))
    assert frame["y"] <= shown["y"]
    assert shown["y"] + shown["height"] <= frame["y"] + frame["height"]
    assert frame["x"] <= shown["x"]
    assert shown["x"] + shown["width"] <= frame["x"] + frame["width"]
    fit = page.locator("#picture img").evaluate("image => getComputedStyle(image).objectFit")
    assert fit == "contain"  # the whole picture in the image's own box


def test_an_example_is_captioned_by_a_click(visit):
    page = visit()
    page.get_by_role("button").filter(has=page.locator("img[alt*='boat'], img[src*='boat']")).first.click()
    expect(best(page)).to_have_text(KNOWN["boat.png"], timeout=WAIT_MS)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [("notes.jpg", b"no image at all", "UNSUPPORTED_FORMAT"), ("half.png", None, "TRUNCATED_IMAGE")],
)
def test_a_bad_file_is_said_in_words_and_the_next_works(visit, name, data, code):
    page = visit()
    whole = (EXAMPLES / "images/owl.png").read_bytes()
    upload(page, name, data or whole[: len(whole) // 2])
    expect(page.get_by_role("alert")).to_have_text(TEXTS["en"][code], timeout=WAIT_MS)
    assert "/tmp" not in page.inner_text("body")
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"], timeout=WAIT_MS)


def test_an_address_of_this_network_is_refused(visit, page_url):
    page = visit()
    box = page.get_by_label("Address of a picture")
    box.fill(f"{page_url}favicon.ico")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(TEXTS["en"]["FETCH_FAILED"], timeout=WAIT_MS)


def test_it_fits_a_telephone(visit):
    page = visit(width=390, height=844)
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"], timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    title, languages = page.get_by_role("heading").first.bounding_box(), page.get_by_text("English").bounding_box()
    assert title["y"] + title["height"] <= languages["y"]  # one above the other
    box = best(page).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_a_chinese_browser_gets_chinese(visit):
    page = visit(locale="zh-CN")
    expect(page.get_by_role("heading", name=TEXTS["zh"]["title"])).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("button", name=TEXTS["zh"]["button"])).to_be_visible()
    upload(page, "notes.jpg", b"no image at all")
    expect(page.get_by_role("alert")).to_have_text(TEXTS["zh"]["UNSUPPORTED_FORMAT"], timeout=WAIT_MS)


def test_the_language_can_be_changed(visit):
    page = visit()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"], timeout=WAIT_MS)
    page.get_by_label("中文").click()
    expect(page.get_by_role("heading", name=TEXTS["zh"]["title"])).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(".ofa-times")).to_contain_text(TEXTS["zh"]["encode"], timeout=WAIT_MS)


def test_no_word_is_missing_in_a_language():
    assert set(LANGUAGES.values()) == set(TEXTS)
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    assert errors.SERVER_ERRORS.keys() - TEXTS["en"].keys() == {"INTERNAL"}  # said as OTHER


@pytest.mark.parametrize(("header", "language"), [("zh-CN,zh;q=0.9", "zh"), ("en-US", "en"), ("fr", "en"), ("", "en")])
def test_the_browsers_language_is_begun_with(header, language):
    assert preferred_language(header) == language


def test_captions_cannot_bring_markup():
    shown = captions_html([Caption("<script>alert(1)</script>", -0.5, timing_ms={"encode": 1.0})], "en")
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<" not in re.sub(r"</?div[^>]*>", "", error_html("<b>", "en"))
