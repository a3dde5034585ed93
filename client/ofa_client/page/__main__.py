"""``python -m ofa_client.page``: serves the page until interrupted."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr

from ofa_client import contract
from ofa_client.aio import AsyncCaptioner
from ofa_client.arguments import DEFAULT_URL
from ofa_client.bulk.items import IMAGE_SUFFIXES
from ofa_client.page.app import build
from ofa_client.page.render import STYLE


def main() -> None:
    """Serve the page; every flag has its variable."""
    parser = argparse.ArgumentParser(prog="python -m ofa_client.page", description=__doc__)
    for name, default, text in (
        ("url", DEFAULT_URL, "the captioning server; replicas with commas"),
        ("model", contract.MODEL, "the served model's name"),
        ("api_key", None, "the proxy's key"),
        ("host", "127.0.0.1", "the address to listen on"),
        ("port", "7860", "the port to listen on; 0 takes a free one"),
        ("examples", None, "a folder of pictures to show as examples"),
    ):
        variable = f"OFA_{'PAGE_' if name in ('host', 'port', 'examples') else ''}{name.upper()}"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, default=os.environ.get(variable) or default, help=f"{text} [{variable}]")
    flags = parser.parse_args()
    examples = Path(flags.examples).iterdir() if flags.examples else ()
    captioner = AsyncCaptioner(
        flags.url.split(","), model=flags.model, api_key=flags.api_key, timeout=30, public_urls_only=True
    )
    page = build(captioner, sorted(path for path in examples if path.suffix.lower() in IMAGE_SUFFIXES))
    _, address, _ = page.launch(
        server_name=flags.host,
        server_port=int(flags.port) or None,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
        max_file_size="20mb",
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    sys.stdout.write(f"the page is at {address}\n")
    sys.stdout.flush()
    page.block_thread()


if __name__ == "__main__":
    main()
