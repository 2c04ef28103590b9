"""Describes a card by what kernels' tiles are chosen by: its maker, generation and size."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch


class CardFamily(StrEnum):
    HOPPER = "hopper"  # sm_90, sm_100: matrix instructions of four warps that read shared memory, 227 KiB of it
    AMPERE = "ampere"  # sm_80 to sm_89, and sm_120: 99 KiB of shared memory
    RDNA = "rdna"  # 64 KiB of shared memory, matrix instructions of 16×16×16
    CDNA = "cdna"  # 64 KiB, wavefronts of 64


@dataclass(frozen=True)
class CardModel:
    name: str
    family: CardFamily
    processors: int  # SMs or compute units

    @property
    def lanes(self) -> int:
        """Number of threads in a warp."""
        return 64 if self.family is CardFamily.CDNA else 32


# What the interpreter plays, where there is no card.
INTERPRETER = CardModel("interpreter", CardFamily.HOPPER, 1)


def card_of(device: torch.device) -> CardModel:
    if device.type == "cpu":
        return INTERPRETER
    facts = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        family = CardFamily.CDNA if facts.gcnArchName.startswith("gfx9") else CardFamily.RDNA
    else:
        family = CardFamily.HOPPER if facts.major in (9, 10) else CardFamily.AMPERE
    return CardModel(facts.name, family, facts.multi_processor_count)
