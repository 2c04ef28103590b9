"""Explains a plan as plain data: which rank holds what, how many bytes, and how ranks communicate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.kvcache.groups import CacheLayout
from rowspan.model.roles import CutBy, n_units
from rowspan.model.spec import LayerSpec, MlpSpec
from rowspan.plan.fit import CacheSize, ShardBytes
from rowspan.plan.routes import Routes
from rowspan.plan.shard import Plan, Shard, Span
from rowspan.plan.traffic import Traffic

PROMPT = 512  # length of the prompt whose traffic is shown
SUMS, HANDS_ON = "sums", "hands on"  # what a stage's ranks do together; what the first of them does for the next stage


@dataclass(frozen=True)
class Holding:
    """One rank's part, in bytes: `weights` and `cache` are memory, `file` is what it reads of the model."""

    rank: int
    device: str
    stage: int
    tp_rank: int
    layers: Span
    heads: Span  # query heads
    kv_heads: Span
    ffn: Span
    embedding: Span | None  # rows of the vocabulary it looks up; None: it holds no embedding
    head: Span | None  # rows of the vocabulary whose logits it computes
    file: int
    weights: int
    cache_per_token: int
    cache: int
    buffers: int  # bytes of buffers for the longest step, and of memory shared with other ranks
    sent_per_token: int  # bytes sent to other ranks per generated token
    sent_per_prompt: int  # bytes sent for a prompt of `PROMPT` tokens

    @property
    def memory(self) -> int:
        return self.weights + self.cache + self.buffers


@dataclass(frozen=True)
class Talk:
    """Ranks that communicate over one transport. act: the kind of communication."""

    act: str
    ranks: tuple[int, ...]
    transport: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """A plan as data; `explain_table.py` makes a table and sentences of it."""

    model: str
    mode: str
    context_size: int  # tokens of one request
    cache_tokens: int  # positions in the whole cache
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_size: int
    vocab_size: int
    holdings: tuple[Holding, ...]
    talks: tuple[Talk, ...]
    probed: bool  # the transports are known to return what was sent
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        ranks = len(self.holdings)
        return (
            f"{self.model}, split mode {self.mode}: {ranks} rank{'s' if ranks > 1 else ''}, "
            f"context {self.context_size} tokens, cache {self.cache_tokens} tokens"
        )

    def totals(self) -> dict[str, int]:
        """Sums of bytes over all ranks."""
        sizes = (
            "file",
            "weights",
            "cache_per_token",
            "cache",
            "buffers",
            "memory",
            "sent_per_token",
            "sent_per_prompt",
        )
        return {size: sum(getattr(holding, size) for holding in self.holdings) for size in sizes}

    def to_dict(self) -> dict[str, Any]:
        """The explanation for JSON. Spans are half-open: start … stop - 1."""
        return asdict(self) | {"totals": self.totals()}


def explain(
    plan: Plan,
    sizes: Sequence[ShardBytes],
    cache: CacheSize,
    layout: CacheLayout,
    routes: Routes,
    sent: Sequence[Traffic],
    buffers: Sequence[int],
) -> Explanation:
    """Describe a plan.

    Args:
        sizes, sent, buffers: one for each rank.
        layout: of the KV cache.
    """
    cache_tokens = cache.n_blocks * layout.block_size
    held = [layout.nbytes(cache_tokens, size.position_bytes) for size in sizes]
    ranks = zip(plan.shards, sizes, sent, buffers, held, strict=True)
    typical = _typical(plan.spec.layers)
    return Explanation(
        model=plan.spec.name,
        mode=plan.mode.value,
        context_size=cache.context_size,
        cache_tokens=cache_tokens,
        n_layers=plan.spec.n_layers,
        n_heads=typical.mixer.n_heads,
        n_kv_heads=typical.mixer.n_units,
        ffn_size=n_units(plan.spec, typical, _mlp_cut(typical)),
        vocab_size=plan.spec.vocab_size,
        holdings=tuple(_holding(plan, *rank) for rank in ranks),
        talks=tuple(_talks(plan, routes)),
        probed=routes.probed,
        notes=(*_notes(plan), *_window_notes(cache, layout)),
    )


def memory_text(size: int) -> str:
    """A number of bytes in readable form, in powers of 1024: "93.8 MiB"."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def _holding(plan: Plan, shard: Shard, size: ShardBytes, sent: Traffic, buffers: int, cache_bytes: int) -> Holding:
    embedding = plan.cut(TensorKey(Role.EMBEDDING), shard)
    head = None if plan.spec.encoder is not None else plan.cut(TensorKey(Role.HEAD), shard)
    layer = _typical(plan.spec.layers[shard.layers.as_slice()])
    cut = shard.cut_of(plan.spec.layers.index(layer, shard.layers.start))
    return Holding(
        rank=shard.rank,
        device=str(shard.device),
        stage=shard.stage,
        tp_rank=shard.tp_rank,
        layers=shard.layers,
        heads=cut.heads.scaled(layer.mixer.group),
        kv_heads=cut.heads,
        ffn=cut.of(_mlp_cut(layer)),
        embedding=embedding.rows if embedding and shard.stage == 0 else None,
        head=head.rows if head else None,
        file=size.file,
        weights=size.weights,
        cache_per_token=size.cache_per_token,
        cache=cache_bytes,
        buffers=buffers,
        sent_per_token=sent.sent(1),
        sent_per_prompt=sent.sent(PROMPT),
    )


def _typical(layers: Sequence[LayerSpec]) -> LayerSpec:
    """The most frequent kind of layer, which the table shows if layers differ."""
    return Counter(layers).most_common(1)[0][0]


def _mlp_cut(layer: LayerSpec) -> CutBy:
    """The unit by which ranks share a layer's MLP; for a mixture the width of each expert."""
    return CutBy.MLP if isinstance(layer.mlp, MlpSpec) else CutBy.EXPERTS


def _layer_words(layer: LayerSpec) -> str:
    """Words for a note that say how a kind of layer differs."""
    mixer, mlp = layer.mixer, layer.mlp
    seen = "all tokens" if mixer.window is None else f"{mixer.window} tokens"
    words = f"{mixer.n_heads} query heads of {mixer.key_size} that see {seen}"
    if isinstance(mlp, MlpSpec):
        return f"{words}, an MLP of {mlp.width} rows"
    shared = f" and one of {mlp.shared.width} for all" if mlp.shared else ""
    return f"{words}, {mlp.used} of {mlp.experts} experts of {mlp.expert.width} rows{shared}"


def _talks(plan: Plan, routes: Routes) -> list[Talk]:
    """How the ranks of every group and of every link communicate."""
    talks = []
    for stage, group in enumerate(routes.groups):
        if group is not None:
            ranks = tuple(shard.rank for shard in plan.stage(stage))
            talks.append(Talk(SUMS, ranks, group.transport.value, group.why))
    for stage, link in enumerate(routes.links):
        ranks = (plan.stage(stage)[0].rank, *(shard.rank for shard in plan.stage(stage + 1)))
        talks.append(Talk(HANDS_ON, ranks, link.transport.value, link.why))
    return talks


def _window_notes(cache: CacheSize, layout: CacheLayout) -> list[str]:
    """One sentence for every group of layers that keeps less than others may."""
    return [
        f"Layers that see {group.window} tokens have a cache of {pool * layout.block_size} positions: what is behind "
        "the window makes room for others."
        for group, pool in zip(layout.groups, layout.pools(cache.n_blocks), strict=True)
        if pool < cache.n_blocks
    ]


def _notes(plan: Plan) -> list[str]:
    """Sentences, one for every fact that a reader of the table may wonder about."""
    notes = [plan.note] if plan.note else []
    if len(plan.spec.layer_kinds) > 1:
        kinds = [f"{count} with {_layer_words(layer)}" for layer, count in plan.spec.layer_kinds.items()]
        notes.append(f"Layers differ: {'; '.join(kinds)}. The table shows the kind that there are most of.")
    for shard in plan.shards:
        who = f"Rank {shard.rank} ({shard.device})"
        has_heads, has_mlp = any(cut.heads for cut in shard.cuts), any(cut.has_mlp for cut in shard.cuts)
        if not has_heads and not has_mlp:
            notes.append(f"{who} holds no part of the layers: it only takes part in sums.")
        elif not has_heads:
            notes.append(f"{who} holds no KV and only takes part in sums, besides its MLP rows.")
    for index in range(plan.n_stages):
        heads = [len(shard.cuts[0].heads) for shard in plan.stage(index)]
        if len(set(heads)) > 1:
            shares = " + ".join(map(str, heads))
            notes.append(f"KV heads are cut whole, {shares}; the MLP's rows even out what they can.")
    layers = [len(plan.stage(index)[0].layers) for index in range(plan.n_stages)]
    if len(set(layers)) > 1:
        shares = " + ".join(map(str, layers))
        notes.append(f"Layers are balanced by bytes, {shares}; the output head counts for the last stage.")
    if plan.spec.tied_embeddings and plan.n_stages > 1:
        notes.append("The embedding is also the output head: the first stage and the last both hold it.")
    elif plan.spec.tied_embeddings:
        notes.append("The embedding is also the output head.")
    else:
        notes.append("The embedding is looked up in the mapped file, so it counts as file and not as weights.")
    return notes
