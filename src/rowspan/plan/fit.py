"""Bytes that a plan's KV cache and weights take, and the largest cache that fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import OutOfMemoryError, UsageError
from rowspan.kvcache.groups import CacheLayout
from rowspan.model.spec import AttentionSpec, LayerSpec, ModelSpec, MoeSpec
from rowspan.plan.shard import LayerCut, Plan, Shard
from rowspan.quant.cache_types import cache_bytes
from rowspan.quant.scheme import SCHEMES, stored_bytes

# Bytes of an activation. int8 activations are held as float32, and rounded for each product.
DTYPE_BYTES: Mapping[str, int] = {"int8": 4, "float32": 4, "bfloat16": 2, "float16": 2}
PACKED_BITS = 9  # bits of an activation packed for int8 products: 8, and a float32 scale for every 32
CACHE_SHARE = 0.5  # of the memory that weights leave; the rest is for activations, the system, and what else runs

TABLES_SHARE = 0.125  # of that memory, for tables of positions, unless a context is asked for
BLIND_TOKENS = 65536  # cache positions that plans of cards alone show: what there is room for is known once they load


@dataclass(frozen=True)
class ShardBytes:
    """Bytes of one rank's share of a model."""

    file: int  # bytes that the rank reads of the model file
    looked_up: int  # part of `file`: an embedding that is only looked up stays in the mapped file
    weights: int  # bytes in memory, in the layout and dtype that the kernels compute with
    position_bytes: tuple[int, ...]  # of the KV cache, for one position in each group of layers: see `CacheLayout`

    @property
    def cache_per_token(self) -> int:
        """Bytes of the KV cache for a token that every group keeps."""
        return sum(self.position_bytes)


@dataclass(frozen=True)
class AlikeTensors:
    """Tensors of one role that are stored alike, in layers of one kind. layers: the indices of these layers, in order;
    None: tensors outside the layers.
    """

    role: Role
    part: str
    info: TensorInfo
    layers: tuple[int, ...] | None

    def one_of(self, shard: Shard) -> tuple[TensorKey, int]:
        """One tensor of these that lies in a rank's layers, and the number of these that do."""
        if self.layers is None:
            return TensorKey(self.role, None, self.part), 1
        first = bisect_left(self.layers, shard.layers.start)
        count = bisect_left(self.layers, shard.layers.stop) - first
        return TensorKey(self.role, self.layers[first] if count else None, self.part), count


def alike_tensors(tensors: Mapping[TensorKey, TensorInfo], spec: ModelSpec) -> list[AlikeTensors]:
    """Group a model's hundreds of tensors into the dozen kinds that there are."""
    kinds = {layer: index for index, layer in enumerate(spec.layer_kinds)}
    kind_of = [kinds[layer] for layer in spec.layers]
    layers: dict[tuple[Role, str, TensorInfo, int], list[int]] = {}
    alone = []
    for key, info in tensors.items():
        if key.layer is None:
            alone.append(AlikeTensors(key.role, key.part, info, None))
        else:
            layers.setdefault((key.role, key.part, info, kind_of[key.layer]), []).append(key.layer)
    return alone + [
        AlikeTensors(role, part, info, tuple(sorted(held))) for (role, part, info, _), held in layers.items()
    ]


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
    """Sizes of one rank's share. An embedding that is only looked up stays in the mapped file, and does not count as
    weights.

    Args:
        tensors: the checkpoint's tensors; or these grouped into kinds, for callers that ask often.
        native: weights stay in memory as they are in the file, as native CPU kernels hold them.
        on_card: weights are held as Triton's kernels hold them: quantized ones counted with the file's bytes, which is
            0 to 20 % less than they take, dense ones in dtype, and an embedding that is only looked up on the card as
            well.
    """
    file = looked_up = weights = 0
    for kind in alike_tensors(tensors, plan.spec) if isinstance(tensors, Mapping) else tensors:
        key, count = kind.one_of(shard)
        cut = plan.cut(key, shard) if count else None
        if cut is None:
            continue
        matrix = len(kind.info.shape) > 1
        columns = len(cut.columns) if matrix else 1
        count *= 1 if cut.experts is None else len(cut.experts)
        held = count * stored_bytes(kind.info.scheme, len(cut.rows) * columns)
        file += held
        tied_here = plan.is_last(shard) and plan.spec.tied_embeddings
        if key.role is Role.EMBEDDING and not tied_here and not on_card:
            looked_up += held
        elif on_card and matrix and (key.role is Role.EMBEDDING or not SCHEMES[kind.info.scheme].is_dense):
            weights += held * (2 if key.role is Role.EMBEDDING and tied_here else 1)
        elif native and matrix:
            weights += count * SCHEMES[kind.info.scheme].panel_bytes(len(cut.rows), columns)
        else:
            norm = not matrix and key.part == "weight"  # norms stay float32
            weights += count * len(cut.rows) * columns * (4 if norm else DTYPE_BYTES[dtype])
    return ShardBytes(file, looked_up, weights, shard_position_bytes(plan, shard, cache_dtypes))


def shard_position_bytes(plan: Plan, shard: Shard, types: tuple[str, str]) -> tuple[int, ...]:
    """Bytes that a rank's cache has for a position, in all of its layers of each group."""
    spec, held = plan.spec, shard.layers.as_slice()
    each = [0] * len(spec.cache_groups)
    for layer, cut, group in zip(spec.layers[held], shard.cuts, spec.layer_groups[held], strict=True):
        each[group] += position_bytes(layer.mixer, len(cut.heads), types)
    return tuple(each)


def position_bytes(attention: AttentionSpec, units: int, types: tuple[str, str]) -> int:
    """Bytes that one layer caches per position on a rank that holds `units` of its units: see `AttentionSpec.n_units`.
    types: of keys, and of values.
    """
    heads, *sizes = attention.cached(units)
    return heads * sum(cache_bytes(size, kind) for size, kind in zip(sizes, types, strict=True))


def model_position_bytes(spec: ModelSpec, types: tuple[str, str]) -> int:
    """Bytes that the whole model caches for a position which every layer keeps."""
    kinds = spec.layer_kinds.items()
    return sum(count * position_bytes(kind.mixer, kind.mixer.n_units, types) for kind, count in kinds)


def activation_bytes(plan: Plan, shard: Shard, tokens: int, outputs: int, *, gate_is_written: bool = True) -> int:
    """Bytes of the buffers for one rank's step: float32, except for inputs packed for matrix products. Attention scores
    are never held.

    Beside the residual, its sum and its normed and packed forms, the buffers hold one after the other: queries, keys,
    values and attention's result; then the MLP's gate, up, product and packed product; then the logits of the tokens to
    be sampled, the rank's own part and on the output rank all of them.

    Args:
        gate_is_written: the gate's and up's results are written to memory; native kernels compute both at once, and
            keep only their product.
    """
    spec = plan.spec
    gates = 3 if gate_is_written else 1
    kinds = set(zip(spec.layers[shard.layers.as_slice()], shard.cuts, strict=True))
    mlp = max((_mlp_width(layer, cut) for layer, cut in kinds), default=0)
    widest = max((max(_attention_width(layer, cut), gates * _mlp_width(layer, cut)) for layer, cut in kinds), default=0)
    packed = max(spec.hidden_size, mlp) * PACKED_BITS // 32
    logits = len(shard.vocab) + (
        spec.vocab_size if shard.rank == plan.output_rank and len(shard.vocab) < spec.vocab_size else 0
    )
    per_token = 4 * spec.hidden_size + widest + packed
    return 4 * (tokens * per_token + (outputs * logits if plan.is_last(shard) else 0))


def _attention_width(layer: LayerSpec, cut: LayerCut) -> int:
    """Elements of a token's queries, keys, values and attention result on a rank."""
    return len(cut.heads) * (layer.mixer.group + 1) * (layer.mixer.key_size + layer.mixer.value_size)


def _mlp_width(layer: LayerSpec, cut: LayerCut) -> int:
    """Rows of gate matrices that a token is multiplied with on a rank."""
    used = layer.mlp.used if isinstance(layer.mlp, MoeSpec) else 0
    return len(cut.mlp) + used * len(cut.experts) + len(cut.shared)


def check_context(asked: int | None, spec: ModelSpec) -> None:
    """Raise UsageError if the context asked for is longer than the model's own, if that is known."""
    if asked is not None and 0 < spec.context_length < asked:
        raise UsageError(
            f"--ctx-size {asked} is more than {spec.name} was made for.",
            why=f"Its context is {spec.context_length} tokens; beyond that answers turn to noise.",
            fix=f"Use --ctx-size {spec.context_length} or less.",
        )


@dataclass(frozen=True)
class CacheSize:
    """Blocks are those of a group of layers that keeps everything: see `CacheLayout`."""

    context_size: int  # tokens of one request
    n_blocks: int
    most_blocks: int  # blocks that can be useful; once weights are loaded, a card gets as many of these as fit


def size_cache(
    spec: ModelSpec,
    *,
    context_size: int | None,
    cache_tokens: int | None,
    layout: CacheLayout,
    position_bytes: Sequence[int],
    free_bytes: int | None,
    table_bytes: int = 0,
) -> CacheSize:
    """Choose context and cache size: as asked for, or else the model's context for every parallel request, as far as
    memory lasts.

    Args:
        position_bytes: in each group's layers, summed over all ranks that share the memory.
        free_bytes: memory that is free once the weights are loaded; None: unknown, trust the request.
        table_bytes: for a position of the context, in tables that all ranks together have in this memory.

    Raises:
        OutOfMemoryError: not even one request with the context asked for fits.
        UsageError: the cache asked for is smaller than one of its blocks.
    """
    parallel, block_size = layout.parallel, layout.block_size
    if cache_tokens is not None and cache_tokens < block_size:
        raise UsageError(f"A cache of {cache_tokens} tokens is too small.", fix=f"Use at least {block_size}.")
    affordable, claimed = BLIND_TOKENS, spec.context_length
    if free_bytes is not None:
        if context_size is None and table_bytes:  # a header may claim any context
            claimed = min(claimed, max(block_size, int(max(0, free_bytes) * TABLES_SHARE) // table_bytes))
        free_bytes -= table_bytes * (claimed if context_size is None else context_size)
        useful = parallel * (claimed if context_size is None else context_size)
        affordable = layout.tokens_within(max(0, free_bytes) * CACHE_SHARE, position_bytes, useful)
    if context_size is None:
        context = min(claimed, cache_tokens or claimed)
        if free_bytes is not None:
            context = min(context, affordable)
    else:
        context = context_size
    tokens = cache_tokens if cache_tokens is not None else min(parallel * context, max(affordable, context))
    needed = max(context, tokens, block_size)
    nbytes = layout.nbytes(needed, position_bytes)
    if context < block_size or (free_bytes is not None and nbytes > free_bytes):
        raise OutOfMemoryError(
            f"A cache of {needed} tokens needs {nbytes / 2**30:.1f} GiB.",
            why=f"{max(0, free_bytes or 0) / 2**30:.1f} GiB are left beside the weights.",
            fix="Use a smaller --ctx-size, --cache-type-k f16 --cache-type-v f16, or a smaller model.",
        )
    n_blocks = max(1, -(-tokens // block_size))
    useful = cache_tokens if cache_tokens is not None else parallel * context
    return CacheSize(context, n_blocks, max(n_blocks, -(-useful // block_size)))
