"""Opens a model's files, and reads and checks which model they hold."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from rowspan.checkpoint.checkpoint import Checkpoint
from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, UsageError
from rowspan.model.families.registry import apart, key_of, spec_of
from rowspan.model.header import ModelHeader, Shapes
from rowspan.model.roles import OPTIONAL, SCALES, axes_of, required_tensors, shape_of
from rowspan.model.spec import ModelSpec


def open_checkpoint(path: Path) -> GgufCheckpoint:
    """Open a model's files: a GGUF file, or any part of a split one.

    Raises:
        ModelNotFoundError: the file does not exist.
        UsageError: the path is a folder, or something else that is not a readable file.
        CheckpointError, UnsupportedModelError: see `GgufCheckpoint`.
    """
    if not path.exists():
        raise ModelNotFoundError(
            f"There is no file {path}.",
            fix="Check the path, or give the name of a model: `rowspan models` lists them.",
        )
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.gguf"))
        raise UsageError(
            f"{path} is a folder, not a model file.",
            why="It holds " + (", ".join(inside[:3]) if inside else "no .gguf file") + ".",
            fix="Give the path of a .gguf file.",
        )
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file.", fix="Give the path of a .gguf file.")
    return GgufCheckpoint(path, key_of, apart)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The spec of a checkpoint's model, after checking that each of its tensors exists and has the right shape.

    Raises:
        UnsupportedModelError: Rowspan does not know an architecture, a scaling or a tensor.
        CheckpointError: a key is missing or contradicts the tensors.
    """
    shapes = checkpoint.shapes
    embedding = shapes.get(TensorKey(Role.EMBEDDING))
    if embedding is None or len(embedding) != 2:
        raise CheckpointError(
            "The model file has no usable token embedding.",
            why="The tensor token_embd.weight is missing or not a matrix.",
            fix="Fetch the file again; if it stays so, the conversion was incomplete.",
        )
    header = ModelHeader(checkpoint.metadata, embedding[0], TensorKey(Role.HEAD) not in shapes, shapes)
    # A header may claim any number of layers: compare with the tensors that are there before describing them.
    held = {key.layer for key in shapes if key.layer is not None}
    if header.n_layers != len(held):
        raise header.contradiction(f"{header.n_layers} layers are announced, tensors of {len(held)} are there")
    spec = spec_of(header)
    _check_tensors(header, shapes, spec)
    return spec


def _check_tensors(header: ModelHeader, shapes: Shapes, spec: ModelSpec) -> None:
    due = dict.fromkeys(required_tensors(spec))
    for key in due:
        if key not in shapes:
            raise header.contradiction(f"the tensor {_describe(key)} is missing")
    unused = [_describe(key) for key in shapes if key not in due and not _is_optional(key, due)]
    if unused:
        raise UnsupportedModelError(
            "The model has tensors that Rowspan does not know what to do with.",
            why=f"Leaving out {', '.join(unused[:3])} would silently change the model's answers.",
            fix="Choose another conversion of this model.",
        )
    for key, shape in shapes.items():
        if shape != shape_of(spec, key):
            raise header.contradiction(f"{_describe(key)} has shape {shape}, not {shape_of(spec, key)}")


def _is_optional(key: TensorKey, due: Container[TensorKey]) -> bool:
    """Whether the model can do with and without it."""
    if key.part in SCALES:
        weight = key._replace(part="weight")
        return weight in due and len(axes_of(weight)) > 1 and key.role not in _WITHOUT_SCALES
    return key.role in OPTIONAL


# Rows of an embedding are looked up as they are; so are the heads' parts of latent attention multiplied.
_WITHOUT_SCALES = (Role.EMBEDDING, Role.K_B, Role.V_B)


def _describe(key: TensorKey) -> str:
    layer = "" if key.layer is None else f" of layer {key.layer}"
    return f"{key.role} {key.part}{layer}"
