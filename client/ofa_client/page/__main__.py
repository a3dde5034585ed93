"""``python -m ofa_client.page``: serves the page until interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from ofa_client import contract
from ofa_client.aio import AsyncCaptioner
from ofa_client.arguments import DEFAULT_URL
from ofa_client.bulk.items import IMAGE_SUFFIXES

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def main() -> None:
    """Serve the page; what is in the way is said in one line, and the exit status is 2."""
    parser = _parser()
    flags = parser.parse_args()
    try:
        from ofa_client.page.app import build, launch  # noqa: PLC0415 - an extra, which may not be installed
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is not installed: pip install 'ofa-client[page]'")
    try:
        page = build(_captioner(flags), _pictures(flags.examples))
        address = launch(page, flags.host, flags.port)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the uploads are deleted then as well
    sys.stdout.write(f"the page is at {address}\n")
    sys.stdout.flush()
    page.block_thread()


def _parser() -> argparse.ArgumentParser:
    """Every flag has its variable."""
    parser = _Parser(prog="python -m ofa_client.page", description=__doc__)
    for name, default, kind, text in (
        ("url", DEFAULT_URL, str, "the captioning server; replicas with commas"),
        ("model", contract.MODEL, str, "the served model's name"),
        ("api_key", None, str, "the proxy's key"),
        ("host", "127.0.0.1", str, "the address to listen on"),
        ("port", "7860", _port, "the port to listen on; 0 takes a free one"),
        ("examples", None, str, "a folder of pictures to show as examples"),
    ):
        variable = f"OFA_{'PAGE_' if name in ('host', 'port', 'examples') else ''}{name.upper()}"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=os.environ.get(variable) or default,
            type=kind,
            metavar=name.upper(),
            help=f"{text} [{variable}]",
        )
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text!r}")
    return int(text)


def _captioner(flags: argparse.Namespace) -> AsyncCaptioner:
    return AsyncCaptioner(
        [url.strip() for url in flags.url.split(",")],
        model=flags.model,
        api_key=flags.api_key,
        timeout=30,
        public_urls_only=True,
    )


def _pictures(folder: str | None) -> list[Path]:
    files = Path(folder).iterdir() if folder else ()
    return sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)


if __name__ == "__main__":
    main()
