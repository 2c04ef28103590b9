"""Metadata that would change answers are honoured or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.errors import UnsupportedModelError
from rowspan.model.families.unread_keys import CHANGING_KEYS
from rowspan.plan.device import parse_devices


def open_with(path: Path, extra: dict[str, Any], architecture: str = "llama") -> None:
    TinyModel(architecture, extra=extra).write(path)
    make_blueprint(EngineConfig(path, parse_devices("cpu:0")))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("key", sorted(CHANGING_KEYS.keys() - {"expert_count"}))
def test_what_a_family_leaves_unread_is_refused_unless_it_changes_nothing(
    tmp_path: Path, architecture: str, key: str
) -> None:
    name = f"{architecture}.{key}"
    for harmless in CHANGING_KEYS[key]:
        open_with(tmp_path / "m.gguf", {name: harmless}, architecture)
    harmful: Any = not CHANGING_KEYS[key][0] if isinstance(CHANGING_KEYS[key][0], bool) else 7
    with pytest.raises(UnsupportedModelError, match=rf"{name} is {harmful}.*silently change"):
        open_with(tmp_path / "m.gguf", {name: harmful}, architecture)


def test_experts_that_are_announced_and_absent_are_no_llama(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="expert"):
        open_with(tmp_path / "m.gguf", {"llama.expert_count": 8})


@pytest.mark.parametrize(("kind", "what"), [("adapter", "LoRA"), ("mmproj", "images"), ("imatrix", "importance")])
def test_files_of_other_things_than_models_are_named(tmp_path: Path, kind: str, what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"is no model.*{what}"):
        open_with(tmp_path / "m.gguf", {"general.type": kind})


def test_the_architecture_is_named_before_any_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(TinyModel("qwen3").to_bytes().replace(b"qwen3", b"qwen9"))
    with pytest.raises(UnsupportedModelError, match=r"Architecture 'qwen9' is not supported.*--backend llamacpp"):
        make_blueprint(EngineConfig(path, parse_devices("cpu:0")))
