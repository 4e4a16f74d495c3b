"""Fetching archives into the model store: from an allowed URL only, whole or not at all.

An archive arrives under a hidden name and gets its own when it is complete, so that nobody ever sees half of one, and
nothing that lies in the store is overwritten.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from model_server.config.server import DownloadRules
from model_server.errors import DownloadFailed, ModelNotFound, ServerError

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
CONNECT_TIMEOUT_S = 10
# A server that sends nothing for so long is given up.
SILENCE_TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_REMOTE = re.compile(r"(file|https?)://", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)
# Readers of URLs disagree about what these mean; in a URL that is meant well there is no need for them.
_AMBIGUOUS = re.compile(r"[\\\s\x00-\x20\x7f]|^[a-z]+://[^/?#]*@", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,250}")
_PARTIAL = ".download-"


def is_remote(url: str) -> bool:
    return _REMOTE.match(url) is not None


class Downloads:
    """Puts what URLs name into one folder."""

    def __init__(self, folder: Path, rules: DownloadRules) -> None:
        self._folder = folder
        self._rules = rules

    def target(self, url: str) -> Path:
        """The file of the store that `url` stands for.

        Raises:
            ModelNotFound: it may not be fetched.
            DownloadFailed: it names no file.
        """
        if _AMBIGUOUS.search(url) or ".." in unquote(url) or not self._rules.allow(url):
            raise ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")
        try:
            name = urlsplit(url).path.rpartition("/")[2]
        except ValueError as error:
            raise _failed(url, f"It is no URL: {error}.") from error
        if not _FILE_NAME.fullmatch(name):
            raise _failed(url, "Its path does not end with the name of a file.")
        return self._folder / name

    async def fetch(self, url: str, headers: Mapping[str, str] = NO_HEADERS) -> Path:
        """Fetches what is at `url`; returns the file in the store.

        Args:
            headers: for the host of `url` alone; redirects do not get them.

        Raises:
            ModelNotFound: the URL is not allowed; nothing was contacted.
            DownloadFailed: it cannot be had, is too large or takes too long; nothing of it stays.
            ServerError: a file of that name is there already, or the store cannot be written to.
        """
        target = self.target(url)
        if await asyncio.to_thread(os.path.lexists, target):
            raise _exists(target)
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                await self._copy(url, partial, headers)
            await asyncio.to_thread(_publish, partial, target)
        except FileExistsError:
            raise _exists(target) from None
        except TimeoutError as error:
            limits = f"{self._rules.timeout_s} s (download_timeout), or nothing came for {SILENCE_TIMEOUT_S} s"
            raise _failed(url, f"It took more than {limits}.") from error
        except aiohttp.ClientError as error:
            raise _failed(url, f"{type(error).__name__}: {error}.") from error
        except ValueError as error:
            raise _failed(url, f"It is no URL: {error}.") from error
        except OSError as error:
            log.error("Fetching %s failed: %s", url, error)
            raise ServerError(f"Failed to save model: {url}. {error.strerror or error}.") from error
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
        log.info("Fetched %s into %s", url, target)
        return target

    def sweep(self) -> None:
        """Removes what servers that were killed in the middle have left; what others still write stays."""
        oldest_s = time.time() - self._rules.timeout_s
        for partial in self._folder.glob(f"{_PARTIAL}*"):
            try:
                if partial.lstat().st_mtime < oldest_s:
                    partial.unlink()
            except OSError as error:
                log.warning("%s cannot be removed: %s", partial, error.strerror)

    # --- in detail ---

    async def _copy(self, url: str, partial: Path, headers: Mapping[str, str]) -> None:
        if url[:7].lower() == "file://":
            await asyncio.to_thread(self._copy_file, url, partial)
            return
        async with self._session() as session, self._response(session, url, headers) as response:
            self._check_size(url, response.content_length or 0)
            with await _created(partial) as file:
                await self._write(url, response, file)

    async def _write(self, url: str, response: aiohttp.ClientResponse, file: BinaryIO) -> None:
        size = 0
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            self._check_size(url, size)
            await asyncio.to_thread(file.write, chunk)

    def _copy_file(self, url: str, partial: Path) -> None:
        parts = urlsplit(url)
        source = Path(url2pathname(parts.path))
        if parts.netloc.lower() not in ("", "localhost"):
            raise _failed(url, "Files of other machines cannot be had by file://.")
        with _open_source(url, source) as file, _create(partial) as copy:
            self._check_size(url, os.fstat(file.fileno()).st_size)
            shutil.copyfileobj(file, copy, CHUNK_BYTES)

    def _check_size(self, url: str, size_bytes: int) -> None:
        if size_bytes > self._rules.limit_bytes:
            raise _failed(url, f"It is larger than {self._rules.limit_bytes >> 20} MiB (download_limit_mib).")

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_OutsideResolver()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=self._rules.use_env_proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @asynccontextmanager
    async def _response(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of all redirects, each of which has to be allowed as well."""
        location = url
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(location, allow_redirects=False, headers=headers) as response:
                if response.status == 200:
                    yield response
                    return
                location = self._next_location(url, location, response)
                headers = NO_HEADERS
        raise _failed(url, f"It redirects more than {MAX_REDIRECTS} times.")

    def _next_location(self, url: str, current: str, response: aiohttp.ClientResponse) -> str:
        if response.status not in _REDIRECTS or "Location" not in response.headers:
            raise _failed(url, f"The answer was {response.status} {response.reason}.")
        location = urljoin(current, response.headers["Location"])
        if not _WEB.match(location) or _AMBIGUOUS.search(location) or not self._rules.allow(location):
            raise _failed(url, f"It redirects to {location}, which does not match any allowed URL(s).")
        return location


class _OutsideResolver(AbstractResolver):
    """Addresses of hosts, without this machine's own.

    A name that somebody else controls must not lead to what listens here. `localhost` and plain addresses say what
    they mean, and are up to allowed_urls.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        outside = [entry for entry in found if host == "localhost" or not _is_own(entry["host"])]
        if not outside:
            raise OSError(errno.EACCES, f"{host} is a name of this machine")
        return outside

    async def close(self) -> None:
        await self._resolver.close()


def _is_own(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast


def _open_source(url: str, source: Path) -> BinaryIO:
    # A pipe or a device might never answer, and is no archive.
    if not source.is_file():
        raise _failed(url, "There is no such file.")
    try:
        return source.open("rb")
    except OSError as error:
        raise _failed(url, f"{error.strerror}.") from error


def _create(partial: Path) -> BinaryIO:
    return partial.open("xb")


async def _created(partial: Path) -> BinaryIO:
    opening = asyncio.ensure_future(asyncio.to_thread(_create, partial))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread does not know, and what it makes has to be there before it can be removed.
        with contextlib.suppress(OSError):
            (await opening).close()
        raise


def _publish(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    # Unlike a rename, a link never takes the place of another file.
    os.link(partial, target)


def _exists(target: Path) -> ServerError:
    return ServerError(f"Model file already exists {target.name}")


def _failed(url: str, cause: str) -> DownloadFailed:
    return DownloadFailed(f"Failed to download archive from: {url}. {cause}")
