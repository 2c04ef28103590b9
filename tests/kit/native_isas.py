"""Instruction sets that native kernels can be tested with."""

from __future__ import annotations

from rowspan.kernels.isa import TORCH, available_isas

NATIVE = [isa for isa in available_isas() if isa != TORCH]
"""That this machine has, best first."""

EMULATED = ["avx512_bf16_emulated", "amx_emulated"] if "avx512" in NATIVE else []
"""What these add to AVX-512 is done in plain C++, by sources and memory accesses that are the same otherwise."""

TILED = [isa for isa in NATIVE + EMULATED if isa.startswith("amx")]
"""With the tile registers of AMX."""

BFLOATS = [isa for isa in NATIVE + EMULATED if isa.startswith(("amx", "avx512_bf16"))]
"""With instructions for bfloat16."""
