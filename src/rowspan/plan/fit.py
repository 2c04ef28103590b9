"""Bytes: what the cache and the weights of a plan take, and how large a cache fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import OutOfMemoryError, UsageError
from rowspan.model.spec import ModelSpec
from rowspan.plan.split import Plan, Shard
from rowspan.quant.scheme import SCHEMES, stored_bytes

DTYPE_BYTES: Mapping[str, int] = {"int8": 4, "float32": 4, "bfloat16": 2, "float16": 2}  # int8 is rounded in passing
CACHE_GRAINS: Mapping[str, int] = {"q8_0": 32, "int16": 16}  # a head's elements are a multiple of it, for these types
PACKED_BITS = 9  # of an activation that is rounded for products: 8, and a scale for every 32
CACHE_SHARE = 0.5  # of the memory that weights leave; the rest is for activations, the system, and what else runs

BLIND_TOKENS = 65536  # cache positions that plans of cards alone show: what there is room for is known once they load


@dataclass(frozen=True)
class ShardBytes:
    """What one rank holds."""

    file: int  # bytes of the model file it reads
    looked_up: int  # of these, an embedding that is only looked up: it stays in the mapped file
    weights: int  # in memory, unpacked to the engine's dtype
    cache_per_token: int


@dataclass(frozen=True)
class AlikeTensors:
    """Tensors of one role that are stored alike. layers: in which, in order; None: outside the layers."""

    role: Role
    part: str
    info: TensorInfo
    layers: tuple[int, ...] | None

    def one_of(self, shard: Shard) -> tuple[TensorKey, int]:
        """One that lies in a rank's layers, and how many do."""
        if self.layers is None:
            return TensorKey(self.role, None, self.part), 1
        first = bisect_left(self.layers, shard.layers.start)
        count = bisect_left(self.layers, shard.layers.stop) - first
        return TensorKey(self.role, self.layers[first] if count else None, self.part), count


def alike_tensors(tensors: Mapping[TensorKey, TensorInfo]) -> list[AlikeTensors]:
    """A model's hundreds of tensors as the dozen kinds that they are of."""
    layers: dict[tuple[Role, str, TensorInfo], list[int]] = {}
    alone = []
    for key, info in tensors.items():
        if key.layer is None:
            alone.append(AlikeTensors(key.role, key.part, info, None))
        else:
            layers.setdefault((key.role, key.part, info), []).append(key.layer)
    return alone + [AlikeTensors(*kind, tuple(sorted(held))) for kind, held in layers.items()]


def shard_bytes(
    plan: Plan,
    shard: Shard,
    tensors: Mapping[TensorKey, TensorInfo] | Sequence[AlikeTensors],
    dtype: str,
    cache_dtypes: tuple[str, str],
    *,
    native: bool,
    on_card: bool = False,
) -> ShardBytes:
    """Sizes of one rank's share. An embedding that is only looked up stays in the mapped file, so it is no weight.

    Args:
        tensors: the checkpoint's; or sorted into kinds, for those who ask many times.
        native: weights stay in memory as they are in the file, as native CPU kernels have them.
        on_card: as Triton's kernels have them: quantized as in the file, which is 0 to 20 % less than they take, dense
            ones in dtype, and what is only looked up on the card as well.
    """
    file = looked_up = weights = 0
    is_last = shard.stage == plan.n_stages - 1
    for kind in alike_tensors(tensors) if isinstance(tensors, Mapping) else tensors:
        key, count = kind.one_of(shard)
        cut = plan.cut(key, shard) if count else None
        if cut is None:
            continue
        matrix = len(kind.info.shape) == 2
        columns = len(cut.columns) if matrix else 1
        held = count * stored_bytes(kind.info.scheme, len(cut.rows) * columns)
        file += held
        tied_here = is_last and plan.spec.tied_embeddings
        if key.role is Role.EMBEDDING and not tied_here and not on_card:
            looked_up += held
        elif on_card and matrix and (key.role is Role.EMBEDDING or not SCHEMES[kind.info.scheme].is_dense):
            weights += held * (2 if key.role is Role.EMBEDDING and tied_here else 1)
        elif native and matrix:
            weights += count * SCHEMES[kind.info.scheme].panel_bytes(len(cut.rows), columns)
        else:
            norm = not matrix and key.part == "weight"  # norms stay float32
            weights += count * len(cut.rows) * columns * (4 if norm else DTYPE_BYTES[dtype])
    heads = len(shard.layers) * len(shard.kv_heads)
    per_token = heads * sum(cache_bytes(plan.spec.head_dim, cache_dtype) for cache_dtype in cache_dtypes)
    return ShardBytes(file, looked_up, weights, per_token)


def cache_bytes(elements: int, dtype: str) -> int:
    """Of one head's key or value: of q8_0 with a float16 scale of each 32 elements, of int16 and of int8, which cards
    have, with a float32 of all."""
    if dtype == "q8_0":
        return elements + 2 * (elements // CACHE_GRAINS[dtype])
    if dtype in ("int8", "int16"):
        return elements * (1 if dtype == "int8" else 2) + (4 if elements else 0)
    return elements * DTYPE_BYTES[dtype]


def activation_bytes(
    plan: Plan, shard: Shard, tokens: int, outputs: int, mlp_width: int, *, gate_is_written: bool = True
) -> int:
    """Buffers of one rank's step: float32, but for what is packed for products. Scores are never held.

    Beside the residual, its sum and its normed and packed forms lie, one after the other, queries, keys, values and
    what attention makes of them; and the MLP's gate, up, product and packed product. Then the logits of what is to be
    sampled: the rank's own, and on the output rank all.

    Args:
        mlp_width: rows of a layer's gate that one token meets.
        gate_is_written: so is up; native kernels work out both at once, and keep the product only.
    """
    spec = plan.spec
    attention = 2 * (spec.group + 1) * len(shard.kv_heads) * spec.head_dim
    mlp = mlp_width * len(shard.ffn) // max(1, spec.ffn_size)
    width = 4 * spec.hidden_size + max(attention, (3 if gate_is_written else 1) * mlp)
    packed = max(spec.hidden_size, mlp) * PACKED_BITS // 32
    is_last = shard.stage == plan.n_stages - 1
    logits = len(shard.vocab) + (
        spec.vocab_size if shard.rank == plan.output_rank and len(shard.vocab) < spec.vocab_size else 0
    )
    return 4 * (tokens * (width + packed) + (outputs * logits if is_last else 0))


def check_context(asked: int | None, spec: ModelSpec) -> None:
    """Raises UsageError: a longer context is asked for than the model was made for, if that is known."""
    if asked is not None and 0 < spec.context_length < asked:
        raise UsageError(
            f"--ctx-size {asked} is more than {spec.name} was made for.",
            why=f"Its context is {spec.context_length} tokens; beyond that answers turn to noise.",
            fix=f"Use --ctx-size {spec.context_length} or less.",
        )


@dataclass(frozen=True)
class CacheSize:
    context_size: int  # tokens of one request
    n_blocks: int
    most_blocks: int  # what is of any use: a card gets as many as there is room for once its weights are loaded


def size_cache(
    spec: ModelSpec,
    *,
    context_size: int | None,
    cache_tokens: int | None,
    parallel: int,
    block_size: int,
    bytes_per_token: int,
    free_bytes: int | None,
) -> CacheSize:
    """Choose context and cache size: what was asked for, else the model's context for every parallel request, as far
    as memory lasts.

    Args:
        bytes_per_token: of all ranks together that share the memory.
        free_bytes: memory left once the weights are loaded; None: unknown, trust the request.

    Raises:
        OutOfMemoryError: not even one request of the context asked for fits.
        UsageError: a cache smaller than one of its blocks is asked for.
    """
    if cache_tokens is not None and cache_tokens < block_size:
        raise UsageError(f"A cache of {cache_tokens} tokens is too small.", fix=f"Use at least {block_size}.")
    affordable = BLIND_TOKENS
    if free_bytes is not None:
        affordable = int(max(0, free_bytes) * CACHE_SHARE / max(1, bytes_per_token))
    if context_size is None:
        context = min(spec.context_length, cache_tokens or spec.context_length)
        if free_bytes is not None:
            context = min(context, affordable)
    else:
        context = context_size
    tokens = cache_tokens if cache_tokens is not None else min(parallel * context, max(affordable, context))
    needed = max(context, tokens, block_size)
    if context < block_size or (free_bytes is not None and needed * bytes_per_token > free_bytes):
        raise OutOfMemoryError(
            f"A cache of {needed} tokens needs {needed * bytes_per_token / 2**30:.1f} GiB.",
            why=f"{max(0, free_bytes or 0) / 2**30:.1f} GiB are left beside the weights.",
            fix="Use a smaller --ctx-size, --cache-type-k f16 --cache-type-v f16, or a smaller model.",
        )
    n_blocks = max(1, -(-tokens // block_size))
    useful = cache_tokens if cache_tokens is not None else parallel * context
    return CacheSize(context, n_blocks, max(n_blocks, -(-useful // block_size)))
