"""The console's built files belong to its sources, and stay small: no node is needed to install them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import rowspan.console

SOURCES = Path(__file__).parents[2] / "console-app"
STATIC = Path(rowspan.console.__file__).with_name("static")
OTHERS = ("index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")
REBUILD = "The console's sources have changed: cd console-app && npm ci && npm run build."


def test_built_files_belong_to_the_sources() -> None:
    """The digest of `console-app/digest.ts`."""
    files = [path for path in (SOURCES / "src").rglob("*") if path.is_file()] + [SOURCES / name for name in OTHERS]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(SOURCES).as_posix(), path) for path in files):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    assert (STATIC / "sources.sha256").read_text().strip() == digest.hexdigest(), REBUILD


def test_built_files_are_small_and_complete() -> None:
    assets = {path.name: path.stat().st_size for path in (STATIC / "assets").iterdir()}
    assert sum(assets.values()) < 900_000
    assert max(assets.values()) < 500_000
    scripts = "".join(path.read_text("utf-8") for path in (STATIC / "assets").glob("*.js"))
    assert all(name in scripts + (STATIC / "index.html").read_text("utf-8") for name in assets)
    assert "eval(" not in scripts
    assert "new Function(" not in scripts
