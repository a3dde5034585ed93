"""The page: its parts, and what happens when one is used."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import Depends, HTTPException, Request
from gradio.data_classes import ImageData
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse

from ofa_client.aio import AsyncCaptioner
from ofa_client.errors import CaptionServiceError
from ofa_client.page import render
from ofa_client.page.texts import LANGUAGES, TEXTS, preferred_language

_AT_ONCE = 16
"""Requests of all visitors together that wait for the server; more wait in the page's own queue."""

_LARGEST_UPLOAD = "32mb"
"""More than the SDK takes, so that a file above its limit is refused in the page's own words."""

_DELETE_CACHE = (600, 3600)
"""Every so many seconds, uploads older than so many seconds are deleted."""

_NAMES = {code: name for name, code in LANGUAGES.items()}

_MARK_LANGUAGE = f"name => {{ document.documentElement.lang = {json.dumps(LANGUAGES)}[name]; return name }}"
"""For the words that :mod:`render` gives in every language, and for screen readers."""

_EMPTY_ADDRESS = """picture => {
  const path = picture?.path ?? null
  if (path !== window.ofaPicture) { window.ofaPicture = path; return "" }
}"""
"""A change of the picture leaves no address behind to be described instead. It is looked at whether it is one: Gradio
repeats the event that began a description when it describes once more for what came meanwhile."""


class _Page(gr.Blocks):
    """Blocks that fetch nothing by themselves."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *more: Any, **named: Any) -> Any:
        """Refuse a file that is an address: Gradio would fetch it whole, however large, for any of the inputs."""
        traverse(inputs, _refuse_address, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *more, **named)


def _refuse_address(file: dict[str, Any]) -> None:
    if is_http_url_like(file["path"]):
        raise gr.Error("A file has to be uploaded.", print_exception=False)


def _refuse_relaying(request: Request) -> None:
    """Refuse ``/file=https://…``: Gradio would pass on whatever is there, for anyone."""
    if any(is_http_url_like(value) for value in request.path_params.values()):
        raise HTTPException(403, "This page passes nothing on.")


def _file_as_it_came(payload: ImageData | None) -> str | None:
    """Hand an image component's file over unread: the server judges it, and the words for that are the page's."""
    return payload.path if payload else None


def _describer(captioner: AsyncCaptioner) -> Callable[..., Awaitable[str]]:
    """Give what captions the picture or the address on the page, as HTML."""

    async def describe(picture: str | None, address: str, beams: int, number: int, length: int) -> str:
        """Caption what is at the address, which is there only if it came after the picture; else the picture."""
        address = _web_address(address or "")
        source = address or (picture and Path(picture))
        if not source:
            return render.waiting_html()
        number = min(number, beams) if beams else number
        settings = {"beam_size": beams, "num_captions": number, "max_length": length}
        try:
            found = await captioner.captions(
                source, details=True, **{name: value or None for name, value in settings.items()}
            )
        except CaptionServiceError as error:
            return render.error_html(error.code)
        except FileNotFoundError:
            return render.error_html("GONE")
        except OSError:
            return render.error_html("OTHER")
        return render.captions_html(found, address)

    return describe


def build(captioner: AsyncCaptioner, examples: Sequence[Path] = ()) -> gr.Blocks:
    """Lay the page out over a captioner, which has to refuse addresses that are not public."""
    texts = TEXTS["en"]
    with _Page(title="OFA", analytics_enabled=False, delete_cache=_DELETE_CACHE) as page:
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
                    beam_size = gr.Slider(0, 16, 0, step=1, label=texts["beam_size"])
                    num_captions = gr.Slider(0, 16, 0, step=1, label=texts["num_captions"])
                    max_length = gr.Slider(0, 128, 0, step=1, label=texts["max_length"])
                button = gr.Button(texts["button"], variant="primary")
            with gr.Column():
                captions = gr.HTML(render.waiting_html(), container=True)
                if examples:
                    gallery = gr.Dataset(
                        components=[image], samples=[[str(path)] for path in examples], label=texts["examples"]
                    )
                    # The address here as well: the same example once more is no change of the picture.
                    gallery.click(lambda sample: (sample[0], ""), gallery, [image, url], api_visibility="private")

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
        # Before the description, which the same event begins: it has to find the address gone.
        image.change(None, image, url, js=_EMPTY_ADDRESS, api_visibility="private")
        gr.on(
            [image.change, url.submit, button.click],
            _describer(captioner),
            [image, url, beam_size, num_captions, max_length],
            captions,
            trigger_mode="always_last",
            concurrency_limit=_AT_ONCE,
            api_visibility="private",
        )
        spoken = [heading, *labels.values(), button]
        language.change(speak, language, spoken, js=_MARK_LANGUAGE, api_visibility="private")
        page.load(greet, None, language, api_visibility="private")
    return page


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background, on a free port for 0; returns its address.

    Raises:
        ValueError: nothing can listen there.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=render.STYLE,
            max_file_size=_LARGEST_UPLOAD,
            app_kwargs={"dependencies": [Depends(_refuse_relaying)]},
            run_history=False,  # it keeps what visitors show, in their browsers or at Hugging Face
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ValueError(f"{host}:{port} is taken, or no address of this machine") from error
    return str(address)


def _web_address(text: str) -> str | None:
    """Take an address as a visitor types it; never a path of this machine."""
    text = text.strip()
    if not text:
        return None
    return text if text.lower().startswith(("http://", "https://")) else f"https://{text}"
