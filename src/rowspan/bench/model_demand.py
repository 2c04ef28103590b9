"""What computing a model's tokens takes at the least, to be set against a machine's ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import ModelSpec
from rowspan.plan.demand import prompt_operations

CACHE_VALUE_BYTES = 2  # of float16


@dataclass(frozen=True)
class Demand:
    """The least work there is: every weight is read once a step, in the file's own scheme; a float16 cache, too.

    weight_bytes: of all that a step reads (of an embedding that is not the head, too, it needs a few rows only).
    layer_weights, head_weights: elements of the matrices that every token, and that every token with logits meets.
    """

    weight_bytes: int
    layer_weights: int
    head_weights: int
    cache_values: int  # keys and values of one position, over all layers
    query_values: int  # likewise

    @classmethod
    def of(cls, spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo]) -> Demand:
        """Add it up from a file's header."""
        head = TensorKey(Role.EMBEDDING if spec.tied_embeddings else Role.HEAD)
        read = [info for key, info in tensors.items() if key.layer is not None or key == head]
        matrices = [info for key, info in tensors.items() if key.layer is not None and len(info.shape) == 2]
        return cls(
            weight_bytes=sum(info.nbytes for info in read),
            layer_weights=sum(math.prod(info.shape) for info in matrices),
            head_weights=math.prod(tensors[head].shape),
            cache_values=2 * spec.n_layers * spec.n_kv_heads * spec.head_dim,
            query_values=spec.n_layers * spec.n_heads * spec.head_dim,
        )

    def step_bytes(self, context: float, sequences: int = 1) -> float:
        """Bytes read to give each of the sequences, all of this length, its next token."""
        return self.weight_bytes + sequences * context * self.cache_values * CACHE_VALUE_BYTES

    def token_operations(self, context: float) -> float:
        """Of one more token, with its logits, behind so many others."""
        return 2.0 * (self.layer_weights + self.head_weights + 2 * context * self.query_values)

    def prompt_operations(self, length: int, depth: int = 0) -> float:
        """Of a prompt behind `depth` tokens that are computed already; see `rowspan.plan.demand.prompt_operations`."""

        def whole(tokens: int) -> float:
            return prompt_operations(tokens, self.layer_weights, self.head_weights, self.query_values)

        return whole(depth + length) - whole(depth) + 2.0 * self.head_weights  # each has one row of logits
