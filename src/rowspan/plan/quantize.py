"""Which scheme each tensor gets in a file of a named quantization, by the rules of llama.cpp's `llama-quantize`.

https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp (llama_tensor_get_type). They are followed without
an importance matrix, for llama-like architectures and mixtures; for others (`EXACT_FOR` tells) the result is close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.gguf_layout import ListedTensor
from rowspan.checkpoint.shape import Shape
from rowspan.checkpoint.tensor_names import Role
from rowspan.errors import UsageError
from rowspan.quant.scheme import GEOMETRIES, stored_bytes

# What most matrices of a file get, by the file's quantization.
QUANTIZATIONS: Mapping[str, str] = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q5_K_S": "Q5_K",
    "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q4_0": "Q4_0",
    "Q3_K_M": "Q3_K",
}
EXACT_FOR = ("llama", "qwen2", "qwen3")
ROW_TOO_SHORT = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # rows of no whole blocks of 256
LAYERS_OF_70B = 80  # llama.cpp knows a 70B model by them, and treats its attn_v better
EIGHT_EXPERTS = 8


def quantization(name: str) -> str:
    """The canonical spelling of a quantization's name.

    Raises:
        UsageError: it is not one whose rules are known.
    """
    if name.upper() not in QUANTIZATIONS:
        raise UsageError(f"The quantization {name!r} is not known.", fix=f"Choose among {', '.join(QUANTIZATIONS)}.")
    return name.upper()


def quantized(tensors: Sequence[ListedTensor], shape: Shape, name: str) -> list[TensorInfo]:
    """How each tensor would be stored in a file of this quantization.

    Raises:
        UsageError: as `quantization`.
    """
    name = quantization(name)
    made: dict[tuple[tuple[int, ...], str], TensorInfo] = {}  # most are alike
    infos = []
    for tensor in tensors:
        kind = (tensor.shape, _scheme(tensor, shape, name))
        if kind not in made:
            made[kind] = TensorInfo(*kind, stored_bytes(kind[1], tensor.elements))
        infos.append(made[kind])
    return infos


def _scheme(tensor: ListedTensor, shape: Shape, name: str) -> str:
    is_router = tensor.name.endswith("ffn_gate_inp.weight")
    if len(tensor.shape) == 1 or is_router:
        return "F32"
    base = QUANTIZATIONS[name]
    if base in ("F32", "F16", "BF16", "Q8_0"):
        return base
    scheme = _better(tensor, shape, name) or base
    inputs = tensor.shape[1] // shape.experts if tensor.is_routed and _is_down(tensor) else tensor.shape[1]
    return ROW_TOO_SHORT.get(scheme, scheme) if inputs % GEOMETRIES[scheme].block_size else scheme


def _better(tensor: ListedTensor, shape: Shape, name: str) -> str | None:
    """The scheme of a tensor that matters more than others; None: it does not."""
    role, layer, layers = tensor.key.role if tensor.key else None, tensor.layer or 0, shape.layers
    if role is Role.HEAD or (role is Role.EMBEDDING and shape.tied):
        return "Q6_K"
    mixed = name.endswith("_M")
    if role is Role.V:
        if shape.experts == EIGHT_EXPERTS:
            return "Q8_0"
        if name == "Q3_K_M":
            return "Q5_K" if layer < 2 else "Q4_K"
        if mixed and more_bits(layer, layers):
            return "Q6_K"
        if name == "Q4_K_S" and layer < 4:
            return "Q5_K"
        return "Q5_K" if layers == LAYERS_OF_70B and QUANTIZATIONS[name] == "Q4_K" else None
    if role is Role.K and shape.experts == EIGHT_EXPERTS:
        return "Q8_0"
    if role is Role.O:
        if shape.experts == EIGHT_EXPERTS and name in ("Q3_K_M", "Q4_K_S", "Q4_K_M"):
            return "Q5_K"
        return "Q4_K" if name == "Q3_K_M" else None
    if _is_down(tensor):
        if name == "Q3_K_M":
            return "Q5_K" if layer < layers // 16 else "Q4_K"
        if mixed and more_bits(layer, layers):
            return "Q6_K"
        return "Q5_K" if name == "Q4_K_S" and layer < layers // 8 else None
    return None


def _is_down(tensor: ListedTensor) -> bool:
    return ".ffn_down" in tensor.name


def more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
