"""What there is to say about a plan: who holds what, how many bytes, who talks how. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.plan.fit import CacheSize, ShardBytes
from rowspan.plan.routes import Routes
from rowspan.plan.split import Plan, Shard, Span
from rowspan.plan.traffic import Traffic

PROMPT = 512  # tokens of the prompt whose traffic is told
SUMS, HANDS_ON = "sums", "hands on"  # what a stage's ranks do together; what the first of them does for the next stage


@dataclass(frozen=True)
class Holding:
    """What one rank holds. Sizes in bytes; `weights` and `cache` are memory, `file` is what it reads of the model."""

    rank: int
    device: str
    stage: int
    tp_rank: int
    layers: Span
    heads: Span  # of queries
    kv_heads: Span
    ffn: Span
    embedding: Span | None  # rows of the vocabulary it looks up; None: it holds no embedding
    head: Span | None  # rows of the vocabulary whose logits it computes
    file: int
    weights: int
    cache_per_token: int
    cache: int
    buffers: int  # of the longest step, and what is shared with other ranks
    sent_per_token: int  # to other ranks, while text is generated
    sent_per_prompt: int  # of `PROMPT` tokens

    @property
    def memory(self) -> int:
        return self.weights + self.cache + self.buffers


@dataclass(frozen=True)
class Talk:
    """Ranks that talk over one transport. act: what they do."""

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
        """Bytes of all ranks together."""
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
        """For JSON. Spans are half-open: start … stop - 1."""
        return asdict(self) | {"totals": self.totals()}


def explain(
    plan: Plan,
    sizes: Sequence[ShardBytes],
    cache: CacheSize,
    block_size: int,
    routes: Routes,
    sent: Sequence[Traffic],
    buffers: Sequence[int],
) -> Explanation:
    """Describe a plan.

    Args:
        sizes, sent, buffers: of each rank.
        block_size: positions in a cache block.
    """
    cache_tokens = cache.n_blocks * block_size
    ranks = zip(plan.shards, sizes, sent, buffers, strict=True)
    return Explanation(
        model=plan.spec.name,
        mode=plan.mode.value,
        context_size=cache.context_size,
        cache_tokens=cache_tokens,
        n_layers=plan.spec.n_layers,
        n_heads=plan.spec.n_heads,
        n_kv_heads=plan.spec.n_kv_heads,
        ffn_size=plan.spec.ffn_size,
        vocab_size=plan.spec.vocab_size,
        holdings=tuple(_holding(plan, *rank, cache_tokens) for rank in ranks),
        talks=tuple(_talks(plan, routes)),
        probed=routes.probed,
        notes=tuple(_notes(plan)),
    )


def memory_text(size: int) -> str:
    """A number of bytes for people, in powers of 1024: "93.8 MiB"."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def _holding(plan: Plan, shard: Shard, size: ShardBytes, sent: Traffic, buffers: int, cache_tokens: int) -> Holding:
    embedding = plan.cut(TensorKey(Role.EMBEDDING), shard)
    head = plan.cut(TensorKey(Role.HEAD), shard)
    return Holding(
        rank=shard.rank,
        device=str(shard.device),
        stage=shard.stage,
        tp_rank=shard.tp_rank,
        layers=shard.layers,
        heads=shard.kv_heads.scaled(plan.spec.group),
        kv_heads=shard.kv_heads,
        ffn=shard.ffn,
        embedding=embedding.rows if embedding and shard.stage == 0 else None,
        head=head.rows if head else None,
        file=size.file,
        weights=size.weights,
        cache_per_token=size.cache_per_token,
        cache=cache_tokens * size.cache_per_token,
        buffers=buffers,
        sent_per_token=sent.sent(1),
        sent_per_prompt=sent.sent(PROMPT),
    )


def _talks(plan: Plan, routes: Routes) -> list[Talk]:
    """Of every group, and of every link."""
    talks = []
    for stage, group in enumerate(routes.groups):
        if group is not None:
            ranks = tuple(shard.rank for shard in plan.stage(stage))
            talks.append(Talk(SUMS, ranks, group.transport.value, group.why))
    for stage, link in enumerate(routes.links):
        ranks = (plan.stage(stage)[0].rank, *(shard.rank for shard in plan.stage(stage + 1)))
        talks.append(Talk(HANDS_ON, ranks, link.transport.value, link.why))
    return talks


def _notes(plan: Plan) -> list[str]:
    """One sentence for every fact that a reader of the table may wonder about."""
    notes = [plan.note] if plan.note else []
    for shard in plan.shards:
        who = f"Rank {shard.rank} ({shard.device})"
        if not shard.kv_heads and not shard.ffn:
            notes.append(f"{who} holds no part of the layers: it only takes part in sums.")
        elif not shard.kv_heads:
            notes.append(f"{who} holds no KV and only takes part in sums, besides its MLP rows.")
    for index in range(plan.n_stages):
        heads = [len(shard.kv_heads) for shard in plan.stage(index)]
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
