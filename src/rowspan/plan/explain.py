"""Words for a plan: who holds what, how many bytes, what is worth knowing about it. Plain data, plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rowspan.checkpoint.names import Role, TensorKey
from rowspan.plan.fit import CacheSize, ShardBytes
from rowspan.plan.split import Plan, Shard, Span

HEADER = (
    "RANK",
    "DEVICE",
    "STAGE.ROW",
    "LAYERS",
    "KV HEADS",
    "MLP ROWS",
    "VOCABULARY",
    "FROM FILE",
    "WEIGHTS",
    "KV/TOKEN",
    "CACHE",
)


@dataclass(frozen=True)
class Holding:
    """What one rank holds. Sizes in bytes; `weights` and `cache` are memory, `file` is what it reads of the model."""

    rank: int
    device: str
    stage: int
    row: int
    layers: Span
    kv_heads: Span
    ffn: Span
    embedding: Span | None  # rows of the vocabulary it looks up; None: it holds no embedding
    head: Span | None  # rows of the vocabulary whose logits it computes
    file: int
    weights: int
    cache_per_token: int
    cache: int


@dataclass(frozen=True)
class Explanation:
    """A plan as a table and a few sentences."""

    model: str
    mode: str
    context_size: int  # tokens of one request
    cache_tokens: int  # positions in the whole cache
    n_layers: int
    n_kv_heads: int
    ffn_size: int
    holdings: tuple[Holding, ...]
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
        sizes = ("file", "weights", "cache_per_token", "cache")
        return {size: sum(getattr(holding, size) for holding in self.holdings) for size in sizes}

    def rows(self) -> list[tuple[str, ...]]:
        """Cells under `HEADER`: a row for every rank, and the totals where there are several."""
        rows = [self._row(holding) for holding in self.holdings]
        if len(rows) > 1:
            blanks = ("",) * (len(HEADER) - 5)
            rows.append(("all", *blanks, *(memory_text(size) for size in self.totals().values())))
        return rows

    def to_text(self) -> str:
        """Title, table and notes, for logs and files."""
        table = [HEADER, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        return "\n".join([self.title, *lines, *(f"- {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Spans are half-open: start … stop - 1."""
        return asdict(self) | {"totals": self.totals()}

    def _row(self, holding: Holding) -> tuple[str, ...]:
        return (
            str(holding.rank),
            holding.device,
            f"{holding.stage}.{holding.row}",
            f"{holding.layers.start}-{holding.layers.stop - 1} of {self.n_layers}",
            f"{len(holding.kv_heads)} of {self.n_kv_heads}",
            f"{len(holding.ffn)} of {self.ffn_size}",
            _vocabulary(holding),
            memory_text(holding.file),
            memory_text(holding.weights),
            memory_text(holding.cache_per_token),
            memory_text(holding.cache),
        )


def explain(plan: Plan, sizes: Sequence[ShardBytes], cache: CacheSize, block_size: int) -> Explanation:
    """Describe a plan.

    Args:
        sizes: of each rank.
        block_size: positions in a cache block.
    """
    cache_tokens = cache.n_blocks * block_size
    return Explanation(
        model=plan.spec.name,
        mode=plan.mode.value,
        context_size=cache.context_size,
        cache_tokens=cache_tokens,
        n_layers=plan.spec.n_layers,
        n_kv_heads=plan.spec.n_kv_heads,
        ffn_size=plan.spec.ffn_size,
        holdings=tuple(
            _holding(plan, shard, size, cache_tokens) for shard, size in zip(plan.shards, sizes, strict=True)
        ),
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


def _holding(plan: Plan, shard: Shard, size: ShardBytes, cache_tokens: int) -> Holding:
    embedding = plan.cut(TensorKey(Role.EMBEDDING), shard)
    head = plan.cut(TensorKey(Role.HEAD), shard)
    return Holding(
        rank=shard.rank,
        device=str(shard.device),
        stage=shard.stage,
        row=shard.row,
        layers=shard.layers,
        kv_heads=shard.kv_heads,
        ffn=shard.ffn,
        embedding=embedding.rows if embedding and shard.stage == 0 else None,
        head=head.rows if head else None,
        file=size.file,
        weights=size.weights,
        cache_per_token=size.cache_per_token,
        cache=cache_tokens * size.cache_per_token,
    )


def _vocabulary(holding: Holding) -> str:
    uses = [use for use, held in (("in", holding.embedding), ("out", holding.head)) if held is not None]
    held = holding.embedding or holding.head
    return f"{len(held)} {', '.join(uses)}" if held else "-"


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
