"""Fetches models from web addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rowspan.config import HubConfig
from rowspan.hub.download_progress import ProgressSink
from rowspan.hub.file_cache import FileCache
from rowspan.hub.gguf_files import part_names

_ADDRESS_DIGITS = 16


@dataclass(frozen=True)
class Url:
    """A model's web address; of a model in several files, the address of any of them.

    digest: SHA-256 of the only file, in hexadecimal, written as `#sha256=…` behind the address, as pip does.
    """

    address: str
    digest: str | None = None
    kind = "URL"

    def __str__(self) -> str:
        return f"{self.address}#sha256={self.digest}" if self.digest else self.address

    def locate(self, config: HubConfig) -> list[Path] | None:
        cache = FileCache(config.cache)
        paths = [self._path(cache, address) for address in self._addresses()]
        records = [cache.record(path) for path in paths]
        sound = all(record is not None and self.digest in (None, record.sha256) for record in records)
        return paths if sound else None

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        from rowspan.hub.download import Remote, download  # httpx is slow to import

        cache = FileCache(config.cache)
        addresses = self._addresses()
        paths = [self._path(cache, address) for address in addresses]
        for number, (address, path) in enumerate(zip(addresses, paths, strict=True), 1):
            part_label = f"{label} ({number}/{len(paths)})" if len(paths) > 1 else label
            remote = Remote(address, source=address, sha256=self.digest)
            download(remote, path, cache, config, label=part_label, progress=progress)
        return paths

    def _addresses(self) -> list[str]:
        parts = urlsplit(self.address)
        return [parts._replace(path=path).geturl() for path in part_names(parts.path)]

    def _path(self, cache: FileCache, address: str) -> Path:
        """The place of a file in the cache. All parts of a model share a folder, named after host, path and query."""
        parts = urlsplit(address)
        name = unquote(parts.path).rpartition("/")[2] or "model.gguf"
        first = parts._replace(path=part_names(parts.path)[0]).geturl()
        digest = hashlib.sha256(first.encode()).hexdigest()[:_ADDRESS_DIGITS]
        return cache.path("url", parts.hostname or "", digest, name)
