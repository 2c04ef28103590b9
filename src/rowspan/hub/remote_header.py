"""Fetches GGUF headers over HTTP by range requests: some megabytes of a file of any size. Nothing is stored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rowspan.errors import DownloadError, RowspanError
from rowspan.hub.gguf_files import choose, part_names

if TYPE_CHECKING:
    import httpx

    from rowspan.checkpoint.gguf_header import Header
    from rowspan.config import HubConfig

FIRST_BYTES = 1 << 20
GROWTH = 4  # headers of large vocabularies take 5 to 20 MB
TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


def fetch_headers(address: str, headers: dict[str, str] | None = None) -> tuple[str, list[Header]]:
    """The name of a model's first file, and the headers of all its parts, from a web address.

    Args:
        headers: HTTP headers of the request, such as a token.

    Raises:
        ModelNotFoundError, DownloadError: it cannot be fetched, or the server does not send parts of a file.
        CheckpointError, UnsupportedModelError: it is no GGUF file, or a damaged one.
    """
    from rowspan.hub.download import client

    parts = urlsplit(address)
    addresses = [parts._replace(path=path).geturl() for path in part_names(parts.path)]
    with client() as connection:
        connection.headers.update(headers or {})
        found = [_fetch_header(connection, each) for each in addresses]
    return _file_name(addresses[0]), found


def fetch_text(address: str, headers: dict[str, str] | None = None, most: int = 1 << 22) -> str:
    """A small text file, such as a config.json. Raises the same as `fetch_headers`."""
    from rowspan.hub.download import client

    with client() as connection:
        connection.headers.update(headers or {})
        return _get(connection, address, 0, most)[0].decode("utf-8", "replace")


def hugging_face_files(repo: str, config: HubConfig) -> list[str]:
    """Names of all files in a repository. Raises the same as `HuggingFace.fetch`."""
    from huggingface_hub import HfApi

    from rowspan.hub.huggingface import HuggingFace

    try:
        return list(HfApi(endpoint=config.huggingface_endpoint).list_repo_files(repo))
    except RowspanError:
        raise
    except Exception as error:  # huggingface_hub lets its HTTP library's errors through, whichever that is
        raise HuggingFace(repo).explain(error) from error


def hugging_face_address(repo: str, file: str, config: HubConfig) -> tuple[str, dict[str, str]]:
    """The address of a repository's file, and the HTTP headers that a request for it needs."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    return hf_hub_url(repo, file, endpoint=config.huggingface_endpoint), build_hf_headers()


def chosen_file(names: list[str], choice: str | None, repo: str) -> str:
    """The first file of the model that the user means. Raises ModelNotFoundError."""
    return choose(names, choice, where=f"hf:{repo}")[0]


def _fetch_header(connection: httpx.Client, address: str) -> Header:
    from rowspan.checkpoint.gguf_header import MAX_HEADER_BYTES, TruncatedHeaderError, read_header

    path = Path(_file_name(address))  # names the file in errors
    data, wanted = b"", FIRST_BYTES
    while True:
        more, total = _get(connection, address, len(data), wanted)
        data += more
        try:
            return read_header(path, data)
        except TruncatedHeaderError:
            if not more or len(data) >= min(total, MAX_HEADER_BYTES):
                raise
        wanted = len(data) * GROWTH


def _get(connection: httpx.Client, address: str, start: int, stop: int) -> tuple[bytes, int]:
    """Bytes start … stop - 1, as far as the file has them, and the whole file's size."""
    import httpx

    from rowspan.hub.download import refusal, unreachable

    try:
        with connection.stream(
            "GET", address, headers={"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        ) as response:
            match = TOTAL.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code == httpx.codes.PARTIAL_CONTENT and match:
                return response.read(), int(match[1])
            if not response.is_success:
                raise refusal(response)
            if start:
                raise DownloadError(
                    f"{address} cannot be read in parts.",
                    why="The server ignores range requests.",
                    fix="Fetch the whole model: `rowspan pull`.",
                )
            return _first_bytes(response, stop), int(response.headers.get("Content-Length", 0)) or stop
    except httpx.HTTPError as error:
        raise unreachable(address, str(error) or type(error).__name__) from error
    except httpx.InvalidURL as error:
        raise unreachable(address, str(error)) from error


def _first_bytes(response: httpx.Response, count: int) -> bytes:
    """The first bytes from a server that ignores ranges and sends everything: the connection is dropped once they are
    here.
    """
    data = b""
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) >= count:
            break
    return data[:count]


def _file_name(address: str) -> str:
    return unquote(urlsplit(address).path).rpartition("/")[2] or "model.gguf"
