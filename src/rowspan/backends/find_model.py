"""Finds the model of a name in the form that a backend needs: a GGUF file from the hub, or a Hugging Face folder as it
is.
"""

from __future__ import annotations

import json
import os.path
import re
from pathlib import Path

from rowspan import hub
from rowspan.backends.protocol import BackendName, Model, ModelFormat
from rowspan.hub import ProgressSink

CONFIG = "config.json"  # what makes a folder a Hugging Face model
_REPOSITORY = re.compile(r"hf:(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)")


def find_model(name: str | None, backend: BackendName | None, progress: ProgressSink) -> Model:
    """Locate a model, and fetch it unless the engine does that itself.

    Args:
        name: as for `rowspan pull`, or a folder with a config.json; None: the default model.
        backend: None: any. For vLLM `hf:ORG/NAME` is the whole repository, which vLLM fetches itself.

    Raises:
        RowspanError: there is no such model, or it could not be fetched.
    """
    if name is not None and os.path.isfile(os.path.join(name, CONFIG)):
        folder = Path(name).absolute()
        return Model(folder.name, str(folder), ModelFormat.HF, _vocabulary(folder / CONFIG))
    if name is not None and backend == BackendName.VLLM and (match := _REPOSITORY.fullmatch(name)):
        return Model(match["name"], match["name"], ModelFormat.HF)
    files = hub.resolve(name or hub.DEFAULT_MODEL, progress=progress)
    return Model(files.name, str(files.path), ModelFormat.GGUF)


def _vocabulary(config: Path) -> int | None:
    try:
        size = json.loads(config.read_bytes()).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None  # vLLM will say what is wrong with it
    return size if isinstance(size, int) else None
