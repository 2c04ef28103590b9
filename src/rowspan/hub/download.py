"""Downloads one file over HTTP into the cache: resumes after an interruption, retries with back-off, verifies at the
end.

`NAME.part` holds the bytes so far, `NAME.part.tag` the validator (RFC 9110, 13.1.5) that tells whether the server still
offers the same file.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from rowspan.config import HubConfig
from rowspan.errors import DownloadError, ModelNotFoundError, RowspanError
from rowspan.hub.download_progress import ProgressSink, task
from rowspan.hub.file_cache import FileCache, Record, require_space

_CHUNK = 1 << 20
_TIMEOUT = httpx.Timeout(30.0)
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 403})
_NOT_THERE = frozenset({404, 410})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    source: its name for the hub.
    sha256: its checksum in hexadecimal; None if unknown.
    """

    url: str
    source: str
    sha256: str | None = None


def download(
    remote: Remote, path: Path, cache: FileCache, config: HubConfig, *, label: str, progress: ProgressSink
) -> None:
    """Bring a file to `path` in the cache; does nothing if it is there. If another one is there than `remote.sha256`
    asks for, it is replaced once the right one has arrived whole.

    Raises:
        ModelNotFoundError: the server has no such file.
        DownloadError: the server refuses, fails again and again, or sends a file whose checksum is not `remote.sha256`.
    """
    with cache.claim(path, label, progress):
        record = cache.record(path)
        if record is not None and remote.sha256 in (None, record.sha256):
            return
        part = _Partial(path.with_name(path.name + ".part"), checked_at_end=remote.sha256 is not None)
        with client() as connection:
            failures = 0
            while True:
                before = part.size
                try:
                    _stream(connection, remote.url, part, label, progress)
                    break
                except (httpx.TransportError, _TemporaryError) as error:
                    failures = failures + 1 if part.size <= before else 1
                    if failures == config.attempts:
                        raise unreachable(remote.url, str(error) or type(error).__name__) from error
                    time.sleep(config.retry_delay * 2 ** (failures - 1))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    raise unreachable(remote.url, str(error)) from error
        if remote.sha256 not in (None, part.digest.hexdigest()):
            part.remove()
            raise DownloadError(
                f"{remote.url} sent a damaged file.",
                why=f"Its SHA-256 is {part.digest.hexdigest()}, not {remote.sha256}.",
                fix="Try again: the damaged copy was removed.",
            )
        cache.commit(part.path, path, Record(remote.source, part.size, part.digest.hexdigest()))
        part.remove()


def client() -> httpx.Client:
    """A client that follows redirects (model hubs answer with those) and gives up if the server stays silent."""
    return httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"User-Agent": "rowspan"})


def refusal(response: httpx.Response) -> RowspanError:
    """The error for an answer that a repeated request would not change."""
    status, address = response.status_code, str(response.request.url)
    if status in _NOT_THERE:
        return ModelNotFoundError(f"There is nothing at {address}.", why=f"HTTP {status}.", fix="Check the name.")
    if status in _NOT_ALLOWED:
        return DownloadError(
            f"{address} may not be fetched.",
            why=f"HTTP {status}: it asks for a login.",
            fix="Fetch the file in a browser and give its path, or choose a repository that is open to all.",
        )
    return unreachable(address, f"HTTP {status}.")


def unreachable(address: str, why: str) -> DownloadError:
    """The error for a server that cannot be reached or does not work."""
    return DownloadError(
        f"{address} could not be fetched.",
        why=why,
        fix="Check the network (HTTPS_PROXY is honoured) and try again: what has arrived is kept.",
    )


class _TemporaryError(Exception):
    """The download failed in a way that a later attempt may not."""


class _Partial:
    """The part of a file downloaded so far, and its running hash."""

    def __init__(self, path: Path, *, checked_at_end: bool) -> None:
        self.path = path
        self.size = 0
        self.digest = hashlib.sha256()
        self.validator = ""
        self._tag = path.with_name(path.name + ".tag")
        if self._tag.exists():
            self.validator = self._tag.read_text(encoding="utf-8")
        if path.exists() and (self.validator or checked_at_end):
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self.count(chunk)
        else:
            self.restart("")

    def restart(self, validator: str) -> None:
        """Discard the bytes so far; those to come belong to the file that this validator identifies."""
        self.size = 0
        self.digest = hashlib.sha256()
        self.validator = validator
        self._tag.write_text(validator, encoding="utf-8")
        self.path.write_bytes(b"")

    def count(self, chunk: bytes) -> None:
        """Add bytes that have been written to the file to length and hash."""
        self.size += len(chunk)
        self.digest.update(chunk)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)


def _stream(connection: httpx.Client, url: str, part: _Partial, label: str, progress: ProgressSink) -> None:
    """Make one attempt to download the rest of the file."""
    headers = {"Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    with connection.stream("GET", url, headers=headers) as response:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        start, total = (match[1], int(match[2])) if match else (None, _length(response))
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if total == part.size:
                return  # the last try ended between the last byte and the renaming
            part.restart("")
            raise _TemporaryError("The file on the server has changed.")
        if response.status_code in _TEMPORARY:
            raise _TemporaryError(f"HTTP {response.status_code}.")
        if not response.is_success:
            raise refusal(response)
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            part.restart(_validator(response))
        elif start != str(part.size):
            part.restart("")
            raise _TemporaryError("The server sent another range than the one asked for.")
        if total is not None:
            require_space(part.path.parent, total - part.size, label)
        verb = "Resuming" if part.size else "Fetching"
        with part.path.open("ab") as file, task(progress, f"{verb} {label}", total):
            for chunk in response.iter_bytes():
                file.write(chunk)
                part.count(chunk)
                progress.advance_to(part.size)
    if total is not None and part.size != total:
        raise _TemporaryError(f"The connection ended after {part.size} of {total} bytes.")


def _length(response: httpx.Response) -> int | None:
    """Bytes of the whole body; None if the server sends it in chunks, or compressed although it was asked not to."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def _validator(response: httpx.Response) -> str:
    """The validator for If-Range: a strong entity tag, else a date; empty if the server sends neither."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))
