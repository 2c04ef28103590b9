"""The least work that computing a model's tokens takes, to be set against a machine's ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import AttentionSpec, ModelSpec
from rowspan.plan.rigs.demand import prompt_operations

CACHE_VALUE_BYTES = 2  # bytes of a float16 value


@dataclass(frozen=True)
class Demand:
    """A model's least work: every step reads each weight once, in the file's own scheme, and a float16 KV cache.

    weight_bytes: bytes that a step reads; of an embedding that is not also the head it reads a few rows only.
    layer_weights: elements of the matrices that every token is multiplied with.
    head_weights: elements of the matrix that every token with logits is multiplied with.
    """

    weight_bytes: int
    layer_weights: int
    head_weights: int
    cache_values: int  # keys and values of one position, over all layers
    query_values: int  # elements of the queries of one token, over all layers

    @classmethod
    def of(cls, spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo]) -> Demand:
        """Add the work up from a file's header."""
        head = TensorKey(Role.EMBEDDING if spec.tied_embeddings else Role.HEAD)
        read = [info for key, info in tensors.items() if key.layer is not None or key == head]
        matrices = [info for key, info in tensors.items() if key.layer is not None and len(info.shape) == 2]
        return cls(
            weight_bytes=sum(info.nbytes for info in read),
            layer_weights=sum(math.prod(info.shape) for info in matrices),
            head_weights=math.prod(tensors[head].shape) if head in tensors else 0,  # encoders have none
            cache_values=sum(count * _cached(kind.mixer) for kind, count in spec.layer_kinds.items()),
            query_values=spec.query_width,
        )

    def step_bytes(self, context: float, sequences: int = 1) -> float:
        """Bytes read to give each of the sequences, all of length `context`, its next token."""
        return self.weight_bytes + sequences * context * self.cache_values * CACHE_VALUE_BYTES

    def token_operations(self, context: float) -> float:
        """Operations for one more token, with its logits, behind `context` others."""
        return 2.0 * (self.layer_weights + self.head_weights + 2 * context * self.query_values)

    def prompt_operations(self, length: int, depth: int = 0) -> float:
        """Operations for a prompt behind `depth` tokens that are computed already; see
        `rowspan.plan.rigs.demand.prompt_operations`.
        """

        def whole(tokens: int) -> float:
            return prompt_operations(tokens, self.layer_weights, self.head_weights, self.query_values)

        return whole(depth + length) - whole(depth) + 2.0 * self.head_weights  # each has one row of logits


def _cached(attention: AttentionSpec) -> int:
    """Number of elements that a layer caches per position."""
    heads, *sizes = attention.cached(attention.n_kv_heads)
    return heads * sum(sizes)
