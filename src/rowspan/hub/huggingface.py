"""Fetches models from Hugging Face with huggingface_hub, into that library's own cache (which resumes, and renames at
the end).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowspan.config import HubConfig
from rowspan.errors import DownloadError, ModelNotFoundError, RowspanError
from rowspan.hub.download_progress import ProgressSink, task
from rowspan.hub.file_cache import require_space
from rowspan.hub.gguf_files import complete_models, pick
from rowspan.hub.machine import choose_for_machine

_REPO_FOLDER = "models--"


@dataclass(frozen=True)
class HuggingFace:
    """One model in a repository `org/name`. `choice`: see `gguf_files.pick`."""

    repo: str
    choice: str | None = None
    kind = "Hugging Face"

    def __str__(self) -> str:
        return f"hf:{self.repo}:{self.choice}" if self.choice else f"hf:{self.repo}"

    def locate(self, config: HubConfig) -> list[Path] | None:
        for snapshot in _snapshots(_cache(config) / (_REPO_FOLDER + self.repo.replace("/", "--"))):
            names = pick(_gguf_names(snapshot), self.choice)
            if names:
                return [snapshot / name for name in names]
        return None

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # warnings of retries would tear the progress bar
        cache = _cache(config)
        api = HfApi(endpoint=config.huggingface_endpoint)
        try:
            with task(progress, f"Looking for {label} on Hugging Face", None):
                files = api.list_repo_tree(self.repo, recursive=True)
                sizes = {file.path: file.size for file in files if isinstance(file, RepoFile)}
            names, why = choose_for_machine(sizes, self.choice, f"hf:{self.repo}", config)
            total = sum(sizes[name] for name in names)
            require_space(cache, total, label)
            paths = []
            with task(progress, f"Fetching {label}{why}", total):
                done = 0
                for name in names:
                    bar = _bar(progress, done)
                    paths.append(Path(api.hf_hub_download(self.repo, name, cache_dir=cache, tqdm_class=bar)))
                    done += sizes[name]
                    progress.advance_to(done)
            return paths
        except RowspanError:
            raise
        except Exception as error:  # huggingface_hub lets its HTTP library's errors through, whichever that is
            raise self.explain(error) from error

    def explain(self, error: Exception) -> RowspanError:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        if isinstance(error, GatedRepoError):
            return DownloadError(
                f"{self.repo} on Hugging Face asks you to accept its terms first.",
                why="The repository is gated.",
                fix="Open its page, accept, then log in here with `hf auth login`; or choose an open copy.",
            )
        if isinstance(error, RepositoryNotFoundError):
            return ModelNotFoundError(
                f"Hugging Face has no repository {self.repo} that you may see.",
                fix="Check the name; for a private one log in with `hf auth login`.",
            )
        return DownloadError(
            f"{self.repo} could not be fetched from Hugging Face.",
            why=str(error) or type(error).__name__,
            fix="Check the network and try again (what has arrived is kept), or set HF_ENDPOINT to a mirror.",
        )


def cached_models(config: HubConfig) -> Iterator[tuple[HuggingFace, list[Path]]]:
    """Yield every GGUF model in Hugging Face's cache with its files, from the newest snapshot of each repository."""
    for folder in sorted(_cache(config).glob(f"{_REPO_FOLDER}*--*")):
        repo = folder.name.removeprefix(_REPO_FOLDER).replace("--", "/")
        seen = set()
        for snapshot in _snapshots(folder):
            for names in complete_models(_gguf_names(snapshot)):
                if names[0] not in seen:
                    seen.add(names[0])
                    yield HuggingFace(repo, names[0]), [snapshot / name for name in names]


def _cache(config: HubConfig) -> Path:
    if config.huggingface_cache is not None:
        return config.huggingface_cache
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _snapshots(repo_folder: Path) -> list[Path]:
    """Folders that each show the files of one commit, newest first.

    Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    return sorted((repo_folder / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)


def _gguf_names(snapshot: Path) -> list[str]:
    return [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf") if path.is_file()]


def _bar(progress: ProgressSink, offset: int) -> type[Any]:
    """Make a class for huggingface_hub's progress bars, which draws nothing and passes on the number of bytes so
    far.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.done = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            progress.advance_to(offset + self.done)

        def update_transfer(self, n: float | None = 1) -> None:
            """Count bytes received over the network, which Xet counts apart from those written to the disk."""

    return Bar
