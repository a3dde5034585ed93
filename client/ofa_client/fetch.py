"""Images named by a URL: fetched by this client, limited in size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

from ofa_client.connection import reason_of
from ofa_client.errors import ImageFetchError
from ofa_client.images import refuse_size

FETCH_SECONDS = 20.0
"""How long fetching one image may take."""

_MAX_REDIRECTS = 5
_CHUNK = 1 << 16


class ImageFetcher:
    """Fetches images over HTTP; bound to the event loop that runs when it is made.

    Args:
        public_only: refuse addresses that are not public. A service that fetches what strangers name must, or they
            reach through it what only its own network may.
    """

    def __init__(self, public_only: bool = False) -> None:
        self._public_only = public_only
        resolver = _PublicResolver() if public_only else ThreadedResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver),
            timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
            headers={"User-Agent": "ofa-client", "Accept": "image/*,*/*;q=0.5"},
        )

    async def fetch(self, url: str) -> bytes:
        """Return the bytes behind a URL.

        Raises:
            ImageFetchError: no answer in time, no answer at all, or one that is no file.
            ImageTooLargeError: more than 20 MiB.
        """
        try:
            return await self._follow(url)
        except asyncio.TimeoutError as error:
            raise ImageFetchError(f"{url} gave no image within {FETCH_SECONDS:g} seconds") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ImageFetchError(f"{url} cannot be fetched ({reason_of(error)})") from error

    async def _follow(self, url: str) -> bytes:
        """Redirects are followed here, so that each hop's address is checked."""
        hop = url
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_address(hop, url)
            async with self._session.get(hop, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    hop = urljoin(hop, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    raise ImageFetchError(f"{url} answered with status {response.status}")
                return await _read(response, url)
        raise ImageFetchError(f"{url} redirects more than {_MAX_REDIRECTS} times")

    def _check_address(self, hop: str, url: str) -> None:
        """Refuse other schemes, and literal addresses, which no resolver sees."""
        parts = urlsplit(hop)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageFetchError(f"{url} does not lead to an http:// or https:// address")
        if self._public_only and _is_private(parts.hostname):
            raise ImageFetchError(f"{url} is not a public address")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        data += chunk
        refuse_size(len(data), url)
    return bytes(data)


class _PublicResolver(AbstractResolver):
    """The system's resolver without the addresses that are not public."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
        found = await self._resolver.resolve(host, port, family)
        public = [address for address in found if not _is_private(address["host"])]
        if not public:
            raise OSError(None, f"{host} is not a public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


def _is_private(host: str) -> bool:
    """Tell whether this is an address, and one that is not public; a name is the resolver's to judge."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global
