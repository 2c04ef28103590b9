"""The models: llamas with random weights, whose speed is that of real ones, and SmolLM2."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rowspan.bench.model_demand import Demand
from rowspan.model.open_checkpoint import open_checkpoint, read_spec


@dataclass(frozen=True)
class BenchModel:
    """make: writes the file if it is not there; None: it is given."""

    name: str
    path: Path
    make: Callable[[], None] | None = None

    def demand(self) -> Demand:
        """The least work of its tokens. Raises RowspanError: it cannot be read."""
        checkpoint = open_checkpoint(self.path)
        try:
            spec = read_spec(checkpoint)
            return Demand.of(spec, checkpoint.tensors)
        finally:
            checkpoint.close()


@dataclass(frozen=True)
class Models:
    large_q8_0: BenchModel
    large_q4_k_m: BenchModel
    small: BenchModel

    @property
    def all(self) -> tuple[BenchModel, ...]:
        return self.large_q8_0, self.large_q4_k_m, self.small


def choose_models(shape: str, folder: Path, smollm2: Path | None) -> Models:
    """
    Args:
        shape: of the large ones, and of SmolLM2 where its file is not given: a name in `kit.random_llama.SHAPES`.
        folder: where they are written.
    """
    if smollm2 is not None:
        small = BenchModel(smollm2.stem, smollm2)
    elif shape == "tiny":
        small = replace(random_model("tiny", "Q8_0", folder), name="small Q8_0")
    else:
        small = random_model("135m", "Q8_0", folder)
    return Models(random_model(shape, "Q8_0", folder), random_model(shape, "Q4_K_M", folder), small)


def random_model(shape: str, scheme: str, folder: Path) -> BenchModel:
    path = folder / f"random-{shape}-{scheme.lower()}.gguf"
    return BenchModel(f"{shape.upper()} {scheme}", path, partial(_make, shape, scheme, path))


def _make(shape: str, scheme: str, path: Path) -> None:
    """Whole, or not at all."""
    from kit.random_llama import SHAPES, RandomLlama  # takes the package gguf

    if path.exists():
        return
    unfinished = path.with_name(path.name + ".unfinished")
    RandomLlama(scheme, **SHAPES[shape]).write(unfinished, threads=len(os.sched_getaffinity(0)))
    unfinished.rename(path)
