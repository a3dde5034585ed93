"""What the page asks for when it is used, in Debian's Chromium; no server is needed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ofa_client.page.texts import TEXTS
from playwright.sync_api import expect

EXAMPLES = Path(__file__).parents[2] / "examples/images"
OWL = EXAMPLES / "owl.png"
OWN = {"beam_size": None, "num_captions": None, "max_length": None, "details": True}
ADDRESS = "https://example.org/picture.png"
OTHER_ADDRESS = "https://example.org/other.png"


@pytest.fixture
def page(served, open_window):
    return open_window(served.local_url)


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


def click_example(page, name):
    page.get_by_role("button").filter(has=page.locator(f"img[src*='{name}']")).first.click()


def address_box(page):
    return page.get_by_label(TEXTS["en"]["url"])


def give_address(page, address):
    address_box(page).fill(address)
    address_box(page).press("Enter")


def remove_picture(page):
    page.get_by_label("Remove Image").click()


def describe(page):
    page.get_by_role("button", name=TEXTS["en"]["button"]).click()


def set_option(page, label, value):
    number = page.get_by_label(f"number input for {label}")
    number.fill(value)
    number.press("Tab")
    expect(page.get_by_label(f"range slider for {label}")).to_have_value(value)


def expect_caption(page, text):
    expect(page.locator(".ofa-captions .ofa-text")).to_have_text(text)


def expect_error(page, code, language="en"):
    expect(page.get_by_role("alert")).to_have_text(TEXTS[language][code], use_inner_text=True)


def expect_asked(page, captioner, *pictures):
    """Wait for so many requests, and a little longer for one too many."""
    give_up = time.monotonic() + 20
    while len(captioner.asked) < len(pictures) and time.monotonic() < give_up:
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)
    assert captioner.pictures == list(pictures)


def test_an_option_that_nobody_touched_is_the_checkpoints_own(page, captioner):
    upload(page, OWL)
    expect_caption(page, "owl.png")
    assert captioner.asked[0][1] == OWN


def test_no_more_captions_are_asked_for_than_beams(page, captioner):
    page.get_by_text("Options").click()
    page.get_by_label("number input for Captions").wait_for()
    page.wait_for_timeout(1000)  # as a visitor needs to reach for it; the options are made when they are opened
    set_option(page, "Captions", "5")
    set_option(page, "Longest", "20")
    upload(page, OWL)
    expect_asked(page, captioner, "owl.png")
    set_option(page, "Beam size", "2")
    describe(page)
    expect_asked(page, captioner, "owl.png", "owl.png")
    asked = {**OWN, "num_captions": 5, "max_length": 20}
    assert [options for _, options in captioner.asked] == [asked, {**asked, "beam_size": 2, "num_captions": 2}]


def test_an_address_is_described_though_there_is_a_picture(page):
    upload(page, OWL)
    expect_caption(page, "owl.png")
    give_address(page, ADDRESS.removeprefix("https://"))
    expect_caption(page, ADDRESS)
    expect(page.locator(".ofa-source")).to_have_text(ADDRESS)  # the picture above is another one


def test_a_new_picture_empties_the_address(page, captioner):
    give_address(page, ADDRESS)
    expect_caption(page, ADDRESS)
    upload(page, OWL)
    expect_caption(page, "owl.png")
    expect(address_box(page)).to_have_value("")
    describe(page)
    expect_asked(page, captioner, ADDRESS, "owl.png", "owl.png")


def test_the_same_example_again_empties_the_address(page):
    click_example(page, "boat")
    expect_caption(page, "boat.png")
    give_address(page, ADDRESS)
    expect_caption(page, ADDRESS)
    click_example(page, "boat")
    expect_caption(page, "boat.png")
    expect(address_box(page)).to_have_value("")


def test_an_address_left_over_is_not_described_when_the_picture_goes(page, captioner):
    upload(page, OWL)
    expect_caption(page, "owl.png")
    address_box(page).fill(ADDRESS)
    remove_picture(page)
    expect(page.locator(".ofa-waiting")).to_be_visible()
    expect_asked(page, captioner, "owl.png")


def test_a_second_address_is_heeded_while_the_first_is_pending(page, captioner):
    captioner.may_answer.clear()
    give_address(page, ADDRESS)
    expect_asked(page, captioner, ADDRESS)
    give_address(page, OTHER_ADDRESS)
    captioner.may_answer.set()
    expect_caption(page, OTHER_ADDRESS)
    expect_asked(page, captioner, ADDRESS, OTHER_ADDRESS)


def test_an_address_is_heeded_while_a_picture_is_pending(page, captioner):
    captioner.may_answer.clear()
    upload(page, OWL)
    expect_asked(page, captioner, "owl.png")
    give_address(page, ADDRESS)
    captioner.may_answer.set()
    expect_caption(page, ADDRESS)
    expect(address_box(page)).to_have_value(ADDRESS)
    expect_asked(page, captioner, "owl.png", ADDRESS)


def test_a_picture_is_heeded_while_an_address_is_pending(page, captioner):
    captioner.may_answer.clear()
    give_address(page, ADDRESS)
    expect_asked(page, captioner, ADDRESS)
    upload(page, OWL)
    page.locator("#picture img").wait_for()
    captioner.may_answer.set()
    expect_caption(page, "owl.png")
    expect_asked(page, captioner, ADDRESS, "owl.png")


def test_another_language_asks_for_nothing_anew(page, captioner):
    upload(page, OWL)
    expect_caption(page, "owl.png")
    address_box(page).fill(ADDRESS)  # typed, and not given
    for name, language in (("中文", "zh"), ("English", "en")):
        page.get_by_label(name).click()
        expect(page.get_by_role("heading", name=TEXTS[language]["title"])).to_be_visible()
        expect(page.locator("html")).to_have_attribute("lang", language)
        expect(page.locator(".ofa-times")).to_contain_text(TEXTS[language]["encode"], use_inner_text=True)
        expect(page.locator(".ofa-meaning")).to_have_text(TEXTS[language]["score"], use_inner_text=True)
    expect_asked(page, captioner, "owl.png")


def test_a_chinese_browsers_page_is_marked_as_chinese(served, open_window):
    page = open_window(served.local_url, locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    expect(page.locator(".ofa-waiting")).to_have_text(TEXTS["zh"]["waiting"], use_inner_text=True)


def test_an_upload_that_is_gone_is_said_to_be(page, uploads):
    upload(page, OWL)
    expect_caption(page, "owl.png")
    for file in uploads.rglob("owl.png"):
        file.unlink()
    describe(page)
    expect_error(page, "GONE")


def test_a_file_that_cannot_be_read_is_no_fault_of_the_picture(page, captioner):
    captioner.error = OSError(5, "Input/output error")
    upload(page, OWL)
    expect_error(page, "OTHER")


def test_a_file_too_large_is_refused_in_the_pages_own_words(served, open_window):
    page = open_window(served.local_url, locale="zh-CN")
    expect(page.get_by_role("heading", name=TEXTS["zh"]["title"])).to_be_visible()
    upload(page, {"name": "large.png", "mimeType": "image/png", "buffer": bytes(21 * 2**20)})
    expect_error(page, "IMAGE_TOO_LARGE", "zh")
