"""What each card of a rig would hold of a model, and what fits: weights, cache, activations, overhead, a margin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from rowspan.errors import SplitError
from rowspan.plan.device import Device
from rowspan.plan.fit import activation_bytes, shard_bytes
from rowspan.plan.outline import LayerCacheShape, Outline
from rowspan.plan.planned_rig import CardSpec, MemoryKind
from rowspan.plan.split import Plan, Shard, split
from rowspan.plan.split_mode import SplitMode

STEP_TOKENS = 512  # computed at once; what buffers are sized for

# Assumed, not measured: a driver's context and its libraries' workspace take 0.3 to 0.6 GiB on today's cards, and a few
# percent are lost to fragmentation, page tables and a display. Of unified memory the system keeps a quarter (macOS lets
# graphics have three quarters; so do firmware settings of AMD's and NVIDIA's).
CARD_OVERHEAD = 600 << 20
MARGIN: Mapping[MemoryKind, float] = {MemoryKind.GDDR: 0.03, MemoryKind.HBM: 0.03, MemoryKind.UNIFIED: 0.25}
MOST_CARDS = 64  # in the search for the fewest


@dataclass(frozen=True)
class Load:
    """What is to be served. context: tokens of one request. parallel: requests at once. gpu_layers: so many of the
    first layers on the cards, the rest in RAM; None: all."""

    context: int
    parallel: int = 1
    cache_types: tuple[str, str] = ("float16", "float16")
    step_tokens: int = STEP_TOKENS
    gpu_layers: int | None = None


@dataclass(frozen=True)
class CardNeed:
    """Bytes on one card."""

    card: CardSpec
    layers: int
    weights: int
    cache: int
    activations: int
    overhead: int
    usable: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations + self.overhead

    @property
    def fits(self) -> bool:
        return self.total <= self.usable


@dataclass(frozen=True)
class Placement:
    """A model on cards, cut in one way. Questions of context and slots are answered without cutting again."""

    outline: Outline  # of what is on the cards
    plan: Plan
    cards: tuple[CardSpec, ...]  # by rank
    weights: tuple[int, ...]  # bytes, by rank
    load: Load
    ram_weights: int  # bytes of what is left in RAM
    ram_cache: tuple[LayerCacheShape, ...]

    @property
    def mode(self) -> SplitMode:
        return self.plan.mode

    @cached_property
    def needs(self) -> tuple[CardNeed, ...]:
        """With as many requests at once as the load asks for, all of them as long as it allows."""
        return self.needs_of(self.load.context, self.load.parallel)

    def needs_of(self, context: int, slots: int) -> tuple[CardNeed, ...]:
        return tuple(
            CardNeed(
                card=card,
                layers=len(shard.layers),
                weights=weights,
                cache=self._cache(shard, context, slots),
                activations=activation_bytes(
                    self.plan,
                    shard,
                    self.load.step_tokens,
                    min(self.load.step_tokens, self.load.parallel),
                    self.outline.shape.active_width,
                ),
                overhead=CARD_OVERHEAD,
                usable=usable_bytes(card),
            )
            for shard, card, weights in zip(self.plan.shards, self.cards, self.weights, strict=True)
        )

    def fits(self, context: int | None = None, slots: int | None = None) -> bool:
        needs = self.needs_of(context or self.load.context, slots or self.load.parallel)
        return all(need.fits for need in needs)

    def full_slots(self) -> int:
        """Requests of the whole context that fit at once; at most as many as asked for. 0: not even one."""
        return largest(self.load.parallel, lambda slots: self.fits(slots=slots))

    def largest_context(self, slots: int) -> int:
        """Tokens that each of so many requests can have; at most what the model was made for."""
        return largest(self.outline.shape.context or self.load.context, lambda tokens: self.fits(tokens, slots))

    @property
    def ram_bytes(self) -> int:
        """What the layers that are not on cards take."""
        heads = self.outline.shape.kv_heads
        cache = sum(_layer_cache(layer, heads, self.load, self.load.context) for layer in self.ram_cache)
        return self.ram_weights + self.load.parallel * cache

    def _cache(self, shard: Shard, context: int, slots: int) -> int:
        heads = len(shard.kv_heads)
        kinds = self._cache_kinds[shard.rank].items()
        return slots * sum(count * _layer_cache(layer, heads, self.load, context) for layer, count in kinds)

    @cached_property
    def _cache_kinds(self) -> list[Counter[LayerCacheShape]]:
        """How many layers of each kind a rank holds: one or two kinds, where layers are many."""
        return [Counter(self.outline.cache[s.layers.start : s.layers.stop]) for s in self.plan.shards]


@lru_cache(maxsize=512)  # the answers to a table's questions share most of their placements
def place(
    outline: Outline,
    cards: tuple[CardSpec, ...],
    mode: SplitMode,
    load: Load,
    ratios: tuple[float, ...] | None = None,
) -> Placement:
    """Cut a model over cards, by their memory where no ratios are given; `none` takes the card with the most.

    Raises:
        SplitError: it cannot be cut so.
    """
    on_cards = outline if load.gpu_layers is None else first_layers(outline, load.gpu_layers)
    shares = list(ratios) if ratios is not None else [float(usable_bytes(card)) for card in cards]
    main = max(range(len(cards)), key=lambda index: usable_bytes(cards[index]))
    devices = [Device("cuda", index) for index in range(len(cards))]
    plan = split(on_cards.spec, on_cards.tensors, devices, mode, shares, main)
    weights = tuple(_weights(on_cards, plan, shard, load) for shard in plan.shards)
    ram = 0 if on_cards is outline else outline.file_bytes - sum(weights)
    left = outline.cache[len(on_cards.cache) :]
    return Placement(
        on_cards, plan, tuple(cards[shard.device.index] for shard in plan.shards), weights, load, ram, left
    )


def fewest_cards(outline: Outline, card: CardSpec, mode: SplitMode, load: Load) -> int | None:
    """Cards of one kind on which a single request of the whole context fits; None: more than a rig has."""
    least = max(1, outline.token_bytes // usable_bytes(card))
    for count in range(least, MOST_CARDS + 1):
        try:
            if place(outline, (card,) * count, mode, load).fits(slots=1):
                return count
        except SplitError:
            return None
    return None


def usable_bytes(card: CardSpec) -> int:
    """Of a card's memory, what an engine can count on."""
    return int(card.memory * (1 - MARGIN[card.memory_kind]))


def first_layers(outline: Outline, count: int) -> Outline:
    """What goes onto cards when only so many layers do, at least one: the head comes only together with all layers."""
    if count >= outline.shape.layers:
        return outline
    tensors = {key: info for key, info in outline.tensors.items() if key.layer is not None and key.layer < count}
    return replace(
        outline,
        spec=replace(outline.spec, n_layers=count, tied_embeddings=False),
        tensors=tensors,
        rest=outline.rest[:count],
        cache=outline.cache[:count],
    )


def largest(most: int, is_possible: Callable[[int], bool]) -> int:
    """The largest number up to `most` for which it holds, if it holds for all smaller ones too; 0 if for none."""
    if most > 0 and is_possible(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(middle):
            low = middle
        else:
            high = middle
    return low


def _weights(outline: Outline, plan: Plan, shard: Shard, load: Load) -> int:
    """As in the file: cards hold what is quantized as it is. An embedding that is only looked up stays in RAM."""
    size = shard_bytes(plan, shard, outline.kinds, "float32", load.cache_types, native=False)
    parts = len(plan.stage(shard.stage))
    rest = outline.rest[shard.layers.start : shard.layers.stop]
    return size.file - size.looked_up + sum(each.whole + -(-each.cut // parts) for each in rest)


def _layer_cache(layer: LayerCacheShape, heads: int, load: Load, context: int) -> int:
    """Bytes of one request."""
    positions = context if layer.window is None else min(context, layer.window + load.step_tokens)
    return positions * layer.position_bytes(heads, load.cache_types)
