"""``make test-page``: the page as a visitor uses it, in Debian's Chromium, over the bundled checkpoint.

It needs a server at ``OFA_URL``, and ``apt-get install chromium``; ``OFA_SCREENSHOT`` also writes the README's picture.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from ofa_client import errors
from ofa_client.page.render import captions_html, error_html
from ofa_client.page.texts import LANGUAGES, TEXTS, preferred_language
from ofa_client.results import Caption
from PIL import Image
from playwright.sync_api import expect

EXAMPLES = Path(__file__).parents[2] / "examples"
KNOWN = json.loads((EXAMPLES / "captions.json").read_text(encoding="utf-8"))


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


@pytest.fixture
def visit(open_window, page_url):
    """Open the page in a window of its own."""
    return partial(open_window, page_url)


def picture(width, height):
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(file, "PNG")
    return file.getvalue()


def upload(page, name, data=None):
    file = EXAMPLES / "images" / name if data is None else {"name": name, "mimeType": "image/jpeg", "buffer": data}
    page.locator("input[type=file]").first.set_input_files(file)


def expect_error(page, code, language="en"):
    words = TEXTS[language][code]
    expect(page.get_by_role("alert")).to_have_text(words, use_inner_text=True)


def best(page):
    return page.locator(".ofa-captions .ofa-text").first


def test_an_uploaded_picture_gets_captions_scores_and_times(visit):
    page = visit()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"])
    assert page.locator(".ofa-captions li").count() == 1  # the checkpoint's own number
    assert page.locator(".ofa-times li").count() == 1 + 5


def ask_for_captions(page, number):
    page.get_by_text("Options").click()
    box = page.get_by_label("number input for Captions")
    box.wait_for()
    page.wait_for_timeout(1000)  # as a visitor needs to reach for it; the options are made when they are opened
    box.fill(number)
    box.press("Tab")
    expect(page.get_by_label("range slider for Captions")).to_have_value(number)
    page.get_by_text("Options").click()


def test_the_number_of_captions_is_an_option(visit):
    page = visit()
    ask_for_captions(page, "3")
    upload(page, "owl.png")
    expect(page.locator(".ofa-captions li")).to_have_count(3)
    scores = [float(text) for text in page.locator(".ofa-score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    if "OFA_SCREENSHOT" in os.environ:
        page.set_viewport_size({"width": 1280, "height": 680})
        page.wait_for_timeout(500)
        page.screenshot(path=os.environ["OFA_SCREENSHOT"])


def test_more_captions_than_the_models_own_beams_are_refused_in_words(visit):
    page = visit()
    ask_for_captions(page, "16")
    upload(page, "owl.png")
    expect_error(page, "INVALID_PARAMETER")


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
    expect(best(page)).to_have_text(KNOWN["boat.png"])


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [("notes.jpg", b"no image at all", "UNSUPPORTED_FORMAT"), ("half.png", None, "TRUNCATED_IMAGE")],
)
def test_a_bad_file_is_said_in_words_and_the_next_works(visit, name, data, code):
    page = visit()
    whole = (EXAMPLES / "images/owl.png").read_bytes()
    upload(page, name, data or whole[: len(whole) // 2])
    expect_error(page, code)
    assert "/tmp" not in page.inner_text("body")
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"])


def test_an_address_of_this_network_is_refused(visit, page_url):
    page = visit()
    box = page.get_by_label("Address of a picture")
    box.fill(f"{page_url}favicon.ico")
    box.press("Enter")
    expect_error(page, "FETCH_FAILED")


def test_it_fits_a_telephone(visit):
    page = visit(width=390, height=844)
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    title, languages = page.get_by_role("heading").first.bounding_box(), page.get_by_text("English").bounding_box()
    assert title["y"] + title["height"] <= languages["y"]  # one above the other
    box = best(page).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_a_chinese_browser_gets_chinese(visit):
    page = visit(locale="zh-CN")
    expect(page.get_by_role("heading", name=TEXTS["zh"]["title"])).to_be_visible()
    expect(page.get_by_role("button", name=TEXTS["zh"]["button"])).to_be_visible()
    upload(page, "notes.jpg", b"no image at all")
    expect_error(page, "UNSUPPORTED_FORMAT", "zh")


def test_the_language_can_be_changed(visit):
    page = visit()
    upload(page, "owl.png")
    expect(best(page)).to_have_text(KNOWN["owl.png"])
    page.get_by_label("中文").click()
    expect(page.get_by_role("heading", name=TEXTS["zh"]["title"])).to_be_visible()
    expect(page.locator(".ofa-times")).to_contain_text(TEXTS["zh"]["encode"], use_inner_text=True)


def test_no_word_is_missing_in_a_language():
    assert set(LANGUAGES.values()) == set(TEXTS)
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    assert errors.SERVER_ERRORS.keys() - TEXTS["en"].keys() == {"INTERNAL"}  # said as OTHER


@pytest.mark.parametrize(("header", "language"), [("zh-CN,zh;q=0.9", "zh"), ("en-US", "en"), ("fr", "en"), ("", "en")])
def test_the_browsers_language_is_begun_with(header, language):
    assert preferred_language(header) == language


def test_nothing_from_outside_can_bring_markup():
    shown = captions_html([Caption("<script>alert(1)</script>", -0.5, timing_ms={"encode": 1.0})], "https://a/<script>")
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;") == 2


def test_an_unknown_code_is_a_fault_of_the_server():
    assert error_html("<b>") == error_html("OTHER")
