"""The same model in another weight scheme.

PYTHONPATH=tests python -m kit.requantize --scheme Q8_0 in.gguf out.gguf
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from kit.gguf_bytes import gguf_string, gguf_value
from kit.gguf_stream import LazyTensor, write_gguf

FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}  # general.file_type


def requantize(path_in: Path, path_out: Path, scheme: str) -> Path:
    """Write a model with all its matrices in one scheme, of those that the gguf package can quantize. Vectors and
    metadata stay as they are."""
    reader = gguf.GGUFReader(path_in)
    file_type = gguf_string("general.file_type") + gguf_value(FILE_TYPES[scheme])
    kept = [field for key, field in reader.fields.items() if not key.startswith("GGUF.") and key != "general.file_type"]
    pairs = [b"".join(part.tobytes() for part in field.parts) for field in kept]
    return write_gguf(path_out, [*pairs, file_type], [_tensor(tensor, scheme) for tensor in reader.tensors])


def _tensor(tensor: gguf.ReaderTensor, scheme: str) -> LazyTensor:
    shape = tuple(reversed(tensor.shape.tolist()))
    if len(shape) == 1:
        return LazyTensor(tensor.name, shape, tensor.tensor_type.name, lambda: tensor.data)
    return LazyTensor(tensor.name, shape, scheme, partial(_converted, tensor, gguf.GGMLQuantizationType[scheme]))


def _converted(tensor: gguf.ReaderTensor, ggml_type: gguf.GGMLQuantizationType) -> np.ndarray:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    raw: np.ndarray = gguf.quants.quantize(values, ggml_type)
    return raw


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=requantize.__doc__)
    parser.add_argument("path_in", type=Path)
    parser.add_argument("path_out", type=Path)
    parser.add_argument("--scheme", choices=FILE_TYPES, default="Q8_0")
    arguments = parser.parse_args()
    requantize(arguments.path_in, arguments.path_out, arguments.scheme)
