"""Chooses each tensor's scheme in a file of a named quantization, by the rules of llama.cpp's `llama-quantize`.

https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp (llama_tensor_get_type). They are followed without
an importance matrix, for llama-like architectures and mixtures; for others (`Family.has_known_mixes` tells) the result
is close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role
from rowspan.errors import UsageError
from rowspan.model.spec import ModelSpec, MoeSpec
from rowspan.plan.rigs.listed_tensors import ListedTensor
from rowspan.quant.scheme import GEOMETRIES, stored_bytes

# The scheme of most matrices in a file, by the file's quantization.
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
# The scheme in place of one whose blocks of 256 do not divide a row.
ROW_TOO_SHORT = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
LAYERS_OF_70B = 80  # llama.cpp recognizes a 70B model by this, and gives its attn_v more bits
EIGHT_EXPERTS = 8
DOWNS = (Role.DOWN, Role.EXPERT_DOWN, Role.SHARED_DOWN)


def quantization(name: str) -> str:
    """The canonical spelling of a quantization's name.

    Raises:
        UsageError: the rules of such a quantization are not known.
    """
    if name.upper() not in QUANTIZATIONS:
        raise UsageError(f"The quantization {name!r} is not known.", fix=f"Choose among {', '.join(QUANTIZATIONS)}.")
    return name.upper()


def quantized(tensors: Sequence[ListedTensor], spec: ModelSpec, name: str) -> list[TensorInfo]:
    """How each tensor would be stored in a file of this quantization.

    Raises:
        UsageError: the same as `quantization`.
    """
    name = quantization(name)
    made: dict[tuple[tuple[int, ...], str], TensorInfo] = {}  # many tensors have the same shape and scheme
    infos = []
    for tensor in tensors:
        kind = (tensor.shape, _scheme(tensor, spec, name))
        if kind not in made:
            made[kind] = TensorInfo(*kind, stored_bytes(kind[1], tensor.elements))
        infos.append(made[kind])
    return infos


def _scheme(tensor: ListedTensor, spec: ModelSpec, name: str) -> str:
    if len(tensor.shape) == 1 or tensor.role is Role.ROUTER:
        return "F32"
    base = QUANTIZATIONS[name]
    if base in ("F32", "F16", "BF16", "Q8_0"):
        return base
    scheme = _better(tensor, spec, name) or base
    return ROW_TOO_SHORT.get(scheme, scheme) if tensor.shape[-1] % GEOMETRIES[scheme].block_size else scheme


def _better(tensor: ListedTensor, spec: ModelSpec, name: str) -> str | None:
    """The scheme of a tensor that matters more than others; None if it does not."""
    role, layer, layers = tensor.role, tensor.layer or 0, spec.n_layers
    if role is Role.HEAD or (role is Role.EMBEDDING and spec.tied_embeddings):
        return "Q6_K"
    mixed = name.endswith("_M")
    if role is Role.V:
        if _n_experts(spec) == EIGHT_EXPERTS:
            return "Q8_0"
        if name == "Q3_K_M":
            return "Q5_K" if layer < 2 else "Q4_K"
        if mixed and more_bits(layer, layers):
            return "Q6_K"
        if name == "Q4_K_S" and layer < 4:
            return "Q5_K"
        return "Q5_K" if layers == LAYERS_OF_70B and QUANTIZATIONS[name] == "Q4_K" else None
    if role is Role.K and _n_experts(spec) == EIGHT_EXPERTS:
        return "Q8_0"
    if role is Role.O:
        if _n_experts(spec) == EIGHT_EXPERTS and name in ("Q3_K_M", "Q4_K_S", "Q4_K_M"):
            return "Q5_K"
        return "Q4_K" if name == "Q3_K_M" else None
    if role in DOWNS:
        if name == "Q3_K_M":
            return "Q5_K" if layer < layers // 16 else "Q4_K"
        if mixed and more_bits(layer, layers):
            return "Q6_K"
        return "Q5_K" if name == "Q4_K_S" and layer < layers // 8 else None
    return None


def _n_experts(spec: ModelSpec) -> int:
    return max(layer.mlp.experts if isinstance(layer.mlp, MoeSpec) else 0 for layer in spec.layer_kinds)


def more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: true in the first and last eighth of the layers, and in every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
