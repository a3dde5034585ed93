"""Images named by a URL: fetched by this client, limited in size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from ofa_client.connection import reason_of
from ofa_client.errors import ImageFetchError, ImageHostError
from ofa_client.images import refuse_size
from ofa_client.retry import Retry, retrying
from ofa_client.threads import Threads

FETCH_SECONDS = 20.0
"""How long fetching one image may take, redirects included, once it has begun."""

_AT_ONCE = 100
"""Fetches at once; more wait, outside of those seconds."""

_TRIES = 5
"""Tries of a URL whose host fails while other URLs are fetched: then it is not this client's network that is down."""

_MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_COMPRESSED = ("gzip", "x-gzip", "deflate", "br", "zstd")

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IN_USE = ipaddress.ip_network("2000::/3")
"""The public IPv6 addresses that are given out."""


class ImageFetcher:
    """Fetches images over HTTP; bound to the event loop that runs when it is made.

    Args:
        threads: where names are resolved.
        public_only: refuse addresses that are not public. A service that fetches what strangers name must, or they
            reach through it what only its own network may.
    """

    def __init__(self, threads: Threads, public_only: bool = False) -> None:
        self._public_only = public_only
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._fetched_at = -math.inf
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_Resolver(threads, public_only), limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),  # what comes with one image goes with no other
            auto_decompress=False,  # it makes gigabytes of kilobytes before their size is seen
            headers={"User-Agent": "ofa-client", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        )

    async def fetch(
        self, url: str, policy: Retry, deadline: float, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> bytes:
        """Return the bytes behind a URL; one whose host is away, failing or full is tried again as the policy says.

        Another try is begun only where it may still take all its time before ``deadline`` (``time.monotonic()``): "no
        image there" says more than that the time passed. See :func:`retrying` for ``pause``.

        Raises:
            RuntimeError: closed meanwhile.
            ImageFetchError: no answer in time, no answer at all, or one that is no file. Where it may be this client's
                network, no other URL having been fetched meanwhile, it is an ``ImageHostError``.
            ImageTooLargeError: more than 20 MiB.
        """
        failures: list[float] = []

        async def attempt(_: float) -> bytes:
            if self._session.closed:
                raise RuntimeError("this captioner is closed")
            try:
                return await self._once(url)
            except ImageHostError as error:
                failures.append(time.monotonic())
                if len(failures) >= _TRIES and self._fetched_at > failures[0]:
                    raise ImageFetchError(error.message) from error
                raise

        return await retrying(attempt, policy, deadline - FETCH_SECONDS, pause)

    async def _once(self, url: str) -> bytes:
        try:
            async with self._places:
                data = await asyncio.wait_for(self._follow(url), FETCH_SECONDS)
        except asyncio.TimeoutError as error:
            raise ImageHostError(f"{url} gave no image within {FETCH_SECONDS:g} seconds") from error
        except (aiohttp.ClientSSLError, aiohttp.ClientResponseError, ValueError) as error:
            raise ImageFetchError(f"{url} cannot be fetched ({reason_of(error)})") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ImageHostError(f"{url} cannot be fetched ({reason_of(error)})") from error
        self._fetched_at = time.monotonic()
        return data

    async def _follow(self, url: str) -> bytes:
        """Redirects are followed here, so that each hop's address is checked."""
        hop = URL(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self._check_address(hop, url)
            async with self._session.get(hop, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    hop = hop.join(URL(response.headers.get("Location", "")))
                    continue
                if response.status != 200:
                    transient = response.status == 429 or response.status >= 500
                    kind = ImageHostError if transient else ImageFetchError
                    raise kind(f"{url} answered with status {response.status}")
                if response.headers.get("Content-Encoding", "").lower() in _COMPRESSED:
                    raise ImageFetchError(f"{url} gave a compressed answer, which was not asked for")
                return await _read(response, url)
        raise ImageFetchError(f"{url} redirects more than {_MAX_REDIRECTS} times")

    def _check_address(self, hop: URL, url: str) -> None:
        """Refuse other schemes, and literal addresses, which no resolver sees.

        The host is judged as the URL has it once it is normalised, which makes an address of digits of other scripts.
        """
        host = hop.raw_host
        if hop.scheme not in ("http", "https") or not host:
            raise ImageFetchError(f"{url} does not lead to an http:// or https:// address")
        literal = ":" in host or host.replace(".", "").isdigit()  # what aiohttp takes for an address, 127.1 as well
        if self._public_only and literal and not _is_public(host):
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


class _Resolver(AbstractResolver):
    """The system's resolver in this client's own threads; without the addresses that are not public, where told."""

    def __init__(self, threads: Threads, public_only: bool) -> None:
        self._threads = threads
        self._public_only = public_only

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[Any]:
        found = await self._threads.run(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        addresses = [
            {
                "hostname": host,
                "host": address[0],
                "port": address[1],
                "family": kind,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for kind, _, protocol, _, address in found
            if not self._public_only or _is_public(address[0])
        ]
        if not addresses:
            raise ImageFetchError(f"{host} is not a public address")
        return addresses

    async def close(self) -> None:
        """There is nothing to close."""


def _is_public(host: str) -> bool:
    """Tell whether this is a public address; one of IPv6 that stands for one of IPv4 is as public as that."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address not in _IN_USE or address.sixtofour or address.teredo:  # those tunnels lead anywhere
            return False
    return address.is_global
