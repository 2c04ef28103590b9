"""Fetches models from ModelScope's public repositories, over its plain HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rowspan.config import HubConfig
from rowspan.errors import DownloadError
from rowspan.hub.download_progress import ProgressSink
from rowspan.hub.file_cache import FileCache
from rowspan.hub.gguf_files import pick
from rowspan.hub.machine import choose_for_machine

_REVISION = "master"


@dataclass(frozen=True)
class ModelScope:
    """One model in a repository `org/name`. `choice`: see `gguf_files.pick`."""

    repo: str
    choice: str | None = None
    kind = "ModelScope"

    def __str__(self) -> str:
        return f"ms:{self.repo}:{self.choice}" if self.choice else f"ms:{self.repo}"

    def locate(self, config: HubConfig) -> list[Path] | None:
        cache = FileCache(config.cache)
        folder = self._path(cache)
        files = [path for path in folder.rglob("*.gguf") if cache.record(path) is not None]
        names = pick([path.relative_to(folder).as_posix() for path in files], self.choice)
        return [folder / name for name in names] if names else None

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        from rowspan.hub.download import Remote, download  # httpx is slow to import

        cache = FileCache(config.cache)
        api = f"{config.modelscope_endpoint}/api/v1/models/{self.repo}/repo"
        hashes, sizes = self._list(api)
        names, why = choose_for_machine(sizes, self.choice, f"ms:{self.repo}", config)
        paths = [self._path(cache, *name.split("/")) for name in names]
        for number, (name, path) in enumerate(zip(names, paths, strict=True), 1):
            part_label = f"{label}{why}" + (f" ({number}/{len(names)})" if len(names) > 1 else "")
            address = f"{api}?{urlencode({'Revision': _REVISION, 'FilePath': name})}"
            remote = Remote(address, source=f"ms:{self.repo}:{name}", sha256=hashes[name])
            download(remote, path, cache, config, label=part_label, progress=progress)
        return paths

    def _path(self, cache: FileCache, *parts: str) -> Path:
        return cache.path("modelscope", *self.repo.split("/"), *parts)

    def _list(self, api: str) -> tuple[dict[str, str | None], dict[str, int]]:
        """The repository's files by name: SHA-256s, None where ModelScope does not tell it; and sizes in bytes, 0 where
        it does not.
        """
        import httpx

        from rowspan.hub.download import client, refusal, unreachable

        try:
            with client() as connection:
                response = connection.get(f"{api}/files", params={"Revision": _REVISION, "Recursive": "true"})
        except httpx.HTTPError as error:
            raise unreachable(api, str(error)) from error
        if not response.is_success:
            raise refusal(response)
        try:
            files: list[dict[str, Any]] = response.json()["Data"]["Files"]
            files = [file for file in files if file.get("Type") != "tree"]
            sizes = {file["Path"]: int(file.get("Size") or 0) for file in files}
            return {file["Path"]: file.get("Sha256") or None for file in files}, sizes
        except (ValueError, KeyError, TypeError) as error:
            raise DownloadError(
                f"ModelScope's answer about {self.repo} could not be understood.",
                why=response.text[:200],
                fix="Try again later, or fetch the file by its address.",
            ) from error
