"""The page: its parts, and what happens when one is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from ofa_client.aio import AsyncCaptioner
from ofa_client.errors import CaptionServiceError
from ofa_client.page import render
from ofa_client.page.texts import LANGUAGES, TEXTS, preferred_language

_AT_ONCE = 16
"""Requests of all visitors together that wait for the server; more wait in the page's own queue."""

_NAMES = {code: name for name, code in LANGUAGES.items()}


def _file_as_it_came(payload: ImageData | None) -> str | None:
    """Hand an image component's file over unread: the server judges it, and the words for that are the page's."""
    return payload.path if payload else None


def build(captioner: AsyncCaptioner, examples: Sequence[Path] = ()) -> gr.Blocks:
    """Lay the page out over a captioner, which has to refuse addresses that are not public."""
    texts = TEXTS["en"]
    with gr.Blocks(title="OFA", analytics_enabled=False) as page:
        with gr.Row(elem_id="top"):
            heading = gr.Markdown(render.heading("en"))
            language = gr.Radio(list(LANGUAGES), value="English", show_label=False, container=False, min_width=160)
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    show_label=False, sources=["upload", "clipboard", "webcam"], height=360, elem_id="picture"
                )
                # A subclass would make Gradio write a stub file beside this one. No update may ever name the image:
                # Gradio then makes it anew, as its class is.
                image.preprocess = _file_as_it_came
                url = gr.Textbox(label=texts["url"], placeholder="https://…", max_lines=1)
                with gr.Accordion(texts["options"], open=False) as options:
                    beam_size = gr.Slider(1, 16, 5, step=1, label=texts["beam_size"])
                    num_captions = gr.Slider(1, 16, 3, step=1, label=texts["num_captions"])
                    max_length = gr.Slider(1, 128, 16, step=1, label=texts["max_length"])
                button = gr.Button(texts["button"], variant="primary")
            with gr.Column():
                captions = gr.HTML(render.waiting_html("en"), container=True)
                if examples:
                    gallery = gr.Dataset(
                        components=[image], samples=[[str(path)] for path in examples], label=texts["examples"]
                    )
                    gallery.click(lambda sample: sample[0], gallery, image, api_visibility="private")

        async def describe(picture: str | None, address: str, name: str, beams: int, number: int, length: int) -> str:
            """Caption the picture, or what is at the address."""
            code = LANGUAGES[name]
            source = Path(picture) if picture else _web_address(address)
            if source is None:
                return render.waiting_html(code)
            try:
                found = await captioner.captions(
                    source, beam_size=beams, num_captions=min(number, beams), max_length=length, details=True
                )
            except CaptionServiceError as error:
                return render.error_html(error.code, code)
            except OSError:
                return render.error_html("UNSUPPORTED_FORMAT", code)
            return render.captions_html(found, code)

        async def describe_address(*arguments: Any) -> str:
            return await describe(None, *arguments)

        def speak(name: str) -> list[Any]:
            """Say everything in another language."""
            code = LANGUAGES[name]
            words = TEXTS[code]
            updates = [gr.update(label=words[key]) for key in labels]
            return [render.heading(code), *updates, gr.update(value=words["button"])]

        def greet(request: gr.Request) -> str:
            """Begin in the browser's language."""
            return _NAMES[preferred_language(request.headers.get("accept-language", ""))]

        labels = {"url": url, "options": options, "beam_size": beam_size, "num_captions": num_captions}
        labels |= {"max_length": max_length, **({"examples": gallery} if examples else {})}
        spoken = [heading, *labels.values(), button]
        settings = [url, language, beam_size, num_captions, max_length]
        limits = {"concurrency_limit": _AT_ONCE, "concurrency_id": "captions", "api_visibility": "private"}
        gr.on([image.change, button.click], describe, [image, *settings], captions, **limits)
        url.submit(describe_address, settings, captions, **limits)
        language.change(speak, language, spoken, api_visibility="private").then(
            describe, [image, *settings], captions, **limits
        )
        page.load(greet, None, language, api_visibility="private")
    return page


def _web_address(text: str) -> str | None:
    """Take an address as a visitor types it; never a path of this machine."""
    text = text.strip()
    if not text:
        return None
    return text if text.lower().startswith(("http://", "https://")) else f"https://{text}"
