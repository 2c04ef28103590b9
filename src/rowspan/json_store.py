"""Small JSON files that several processes may read and write: a write succeeds as a whole, or leaves the file as it
was.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return json.loads(path.read_bytes())


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a value, atomically; makes the folder. Other users may read the file as far as the
    umask allows.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full; the file is as it was.
        TypeError: the value cannot be written as JSON; the file is as it was.
    """
    text = json.dumps(value, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # whoever writes at the same time has another
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
