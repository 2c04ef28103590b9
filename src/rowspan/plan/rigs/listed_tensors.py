"""The tensors of a model by name and shape: those of a GGUF file, or those that llama.cpp's converter would write.

https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.families.registry import key_of, name_of
from rowspan.model.roles import required_tensors, shape_of
from rowspan.model.spec import ModelSpec

ROUTED = (Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN)
IN_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class ListedTensor:
    """A tensor as planning sees it.

    shape: (outputs, inputs) for matrices, (experts, outputs, inputs) for experts.
    key: the tensor's role, if the model's family knows it.
    layer: index of its layer; None: outside the layers.
    """

    name: str
    shape: tuple[int, ...]
    key: TensorKey | None
    layer: int | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def role(self) -> Role | None:
        return self.key.role if self.key else None

    @property
    def is_routed(self) -> bool:
        """Whether it belongs to routed experts, of which a token uses only some."""
        return self.role in ROUTED


def list_tensor(name: str, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> ListedTensor:
    """Describe a tensor by its GGUF name, in a file with these metadata."""
    match = IN_LAYER.match(name)
    return ListedTensor(name, shape, key_of(name, metadata), int(match[1]) if match else None)


def tensors_of(spec: ModelSpec) -> list[ListedTensor]:
    """The tensors in a file of this model, except rope_freqs."""
    return [
        ListedTensor(name_of(key, spec.architecture), shape_of(spec, key), key, key.layer)
        for key in required_tensors(spec)
    ]
