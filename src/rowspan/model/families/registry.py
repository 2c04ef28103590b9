"""Finds the family of an architecture among the files in this folder that have a `FAMILY`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.checkpoint.tensor_names import TensorKey, tensor_key
from rowspan.errors import UnsupportedModelError
from rowspan.model import families
from rowspan.model.families.family import Family
from rowspan.model.families.unknown import UNKNOWN
from rowspan.model.families.unread_keys import refuse_unread
from rowspan.model.header import ModelHeader
from rowspan.model.roles import SCALES
from rowspan.model.spec import ModelSpec
from rowspan.quant.scheme import GEOMETRIES

if TYPE_CHECKING:  # it takes NumPy, which is slow to import
    from rowspan.checkpoint.gguf_header import TensorRecord

IN_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)\.(weight|bias|scale|input_scale)")


@cache
def all_families() -> Mapping[str, Family]:
    """All families by architecture. Each file is data and takes a fraction of a millisecond to import."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(families.__path__):
        family = getattr(importlib.import_module(f"{families.__name__}.{module.name}"), "FAMILY", None)
        if isinstance(family, Family):
            found.update((architecture, family) for architecture in family.architectures)
    return found


def family_of(metadata: Mapping[str, Any]) -> Family:
    """The family of a model; for an unknown architecture `UNKNOWN`, which can be planned but not run."""
    return all_families().get(str(metadata.get("general.architecture")), UNKNOWN)


def key_of(name: str, metadata: Mapping[str, Any]) -> TensorKey | None:
    """The key of a tensor by its GGUF name; None if the model's family has no such tensor."""
    family = family_of(metadata)
    return tensor_key(name, family.model_tensors, family.layer_tensors)


def apart(record: TensorRecord, metadata: Mapping[str, Any]) -> Sequence[TensorRecord]:
    """The tensors of the model that a tensor of its file holds: several where the family has them fused; none in layers
    that predict further tokens, which are no part of the model proper.
    """
    match, family = IN_LAYER.fullmatch(record.name), family_of(metadata)
    predicts_further = metadata.get(f"{metadata.get('general.architecture')}.nextn_predict_layers")
    if match is None or not (family.fused or predicts_further):
        return (record,)
    header = ModelHeader(metadata, vocab_size=0, tied=False, for_planning=True)
    layer, stem, part = int(match[1]), match[2], match[3]
    if layer >= header.n_layers:
        return () if predicts_further else (record,)
    fused, scheme = family.fused.get(stem), GEOMETRIES.get(SCHEME_OF_TYPE.get(record.ggml_type, ""))
    if fused is None or scheme is None:
        return (record,)
    parts = fused(header, layer, record.shape[0])
    if part in SCALES:  # of the whole product, and so of each part
        return [replace(record, name=f"blk.{layer}.{name}.{part}") for name, _ in parts]
    width = record.shape[1] if len(record.shape) > 1 else 1
    if sum(rows for _, rows in parts) != record.shape[0] or width % scheme.block_size:
        return (record,)
    records, start = [], record.start
    for name, rows in parts:
        shape = (rows, *record.shape[1:])
        records.append(replace(record, name=f"blk.{layer}.{name}.{part}", shape=shape, start=start))
        start += rows * scheme.row_bytes(width)
    return records


@cache
def hf_types() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """For each `model_type` of a config.json, the architecture's name in GGUF files, and defaults of its keys."""
    return {kind: about for family in dict.fromkeys(all_families().values()) for kind, about in family.hf_types.items()}


def name_of(key: TensorKey, architecture: str) -> str:
    """The GGUF name of a family's tensor."""
    family = all_families()[architecture]
    names = family.model_tensors if key.layer is None else family.layer_tensors
    name = next(name for name, role in names.items() if role is key.role)
    whole = name if name.endswith((".bias", ".scale")) else f"{name}.{key.part}"
    return whole if key.layer is None else f"blk.{key.layer}.{whole}"


def has_known_mixes(architecture: str) -> bool:
    """Whether the family of an architecture has known mixes: see `Family.has_known_mixes`."""
    family = all_families().get(architecture)
    return family is not None and family.has_known_mixes


def check_architecture(metadata: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError if no family has a file's architecture."""
    architecture = metadata.get("general.architecture")
    if isinstance(architecture, str) and architecture not in all_families():
        raise unknown_architecture(architecture)


def unknown_architecture(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Architecture {name!r} is not supported.",
        why=f"Rowspan's own engine runs {', '.join(sorted(all_families()))}.",
        fix="Choose a model of one of these families, or --backend llamacpp, which runs many others.",
    )


def spec_of(header: ModelHeader) -> ModelSpec:
    """The model that a header describes.

    Raises:
        UnsupportedModelError: something like a scaling is unknown; so is the architecture, unless the model is only to
            be planned.
        CheckpointError: a key is missing, or has an impossible value.
    """
    family = all_families().get(header.architecture)
    if family is None and not header.for_planning:
        raise unknown_architecture(header.architecture)
    spec = (family or UNKNOWN).spec(header)
    if not header.for_planning:
        refuse_unread(header)
    return spec
