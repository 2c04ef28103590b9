"""Cache types: the types that keys and values are stored as. This one table serves all code that names, sizes or makes
a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rowspan.quant.scheme import GEOMETRIES


class CacheKernels(StrEnum):
    """The kernels that own a cache. Torch's and Triton's kernels share theirs, which are torch's tensors."""

    NATIVE = "native"
    TENSORS = "tensors"
    LLAMACPP = "llama.cpp"


@dataclass(frozen=True, slots=True)
class CacheType:
    """One type of keys or values.

    dtype: its name within Rowspan; torch's name if torch has the type.
    option: its name for users (-ctk, -ctv); llama.cpp's name if llama.cpp has it.
    grain: number that a head's elements must be a multiple of.
    grain_bytes: bytes of so many elements, their scales included.
    head_bytes: bytes of a scale that all elements of a head share.
    numpy: numpy's type of the codes in native kernels.
    native: names of the native module's `CacheType` for keys and for values; None: native kernels do not have it.
    """

    dtype: str
    option: str
    grain: int
    grain_bytes: int
    kernels: frozenset[CacheKernels]
    head_bytes: int = 0
    numpy: str = ""
    native: tuple[str, str] | None = None

    def nbytes(self, elements: int) -> int:
        """Bytes of one head's key or value with so many elements."""
        return elements * self.grain_bytes // self.grain + (self.head_bytes if elements else 0)


def _blocks(
    name: str, kernels: frozenset[CacheKernels], numpy: str = "", native: tuple[str, str] | None = None
) -> CacheType:
    """A type that is stored like a weight scheme's blocks."""
    blocks = GEOMETRIES[name.upper()]
    return CacheType(name, name, blocks.block_size, blocks.block_bytes, kernels, numpy=numpy, native=native)


_ALL = frozenset(CacheKernels)
_NATIVE, _TENSORS, _LLAMACPP = (frozenset({kernels}) for kernels in CacheKernels)

CACHE_TYPES = (
    CacheType("float32", "f32", 1, 4, _ALL, numpy="float32", native=("F32", "F32")),
    CacheType("float16", "f16", 1, 2, _ALL, numpy="float16", native=("F16", "F16")),
    CacheType("bfloat16", "bf16", 1, 2, _ALL, numpy="uint16", native=("BF16", "BF16")),
    _blocks("q8_0", _NATIVE | _LLAMACPP, numpy="int8", native=("Q8_0", "Q8_0")),
    # On torch's and Triton's kernels q8_0 is int8 with a float32 scale for each head of a token.
    CacheType("int8", "q8_0", 1, 1, _TENSORS, head_bytes=4),
    # 16-bit integers with a float32 scale for each head of a token.
    CacheType("int16", "i16", 16, 32, _NATIVE, head_bytes=4, numpy="int16", native=("I16_KEYS", "I16_VALUES")),
    *(_blocks(name, _LLAMACPP) for name in ("q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")),
)
_BY_DTYPE: Mapping[str, CacheType] = {each.dtype: each for each in CACHE_TYPES}


def cache_type(dtype: str) -> CacheType:
    """The type with this name within Rowspan. Raises KeyError."""
    return _BY_DTYPE[dtype]


def cache_options(*kernels: CacheKernels) -> list[str]:
    """The users' names of all types that any of these kernels have."""
    return list(dict.fromkeys(each.option for each in CACHE_TYPES if not each.kernels.isdisjoint(kernels)))


def cache_type_for(option: str, kernels: CacheKernels) -> CacheType | None:
    """The type as which these kernels store the user's `option`; None: they have no such type."""
    return next((each for each in CACHE_TYPES if each.option == option and kernels in each.kernels), None)


def cache_bytes(elements: int, dtype: str) -> int:
    """Bytes of one head's key or value with so many elements. Raises KeyError if there is no such type."""
    return cache_type(dtype).nbytes(elements)
