"""Computes what each card of a rig would hold of a model, and what fits: weights, KV cache, activations, overhead, a
margin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from rowspan.errors import SplitError
from rowspan.kvcache.groups import CacheGroup, CacheLayout
from rowspan.model.spec import AttentionSpec
from rowspan.plan.device import Device
from rowspan.plan.fit import activation_bytes, position_bytes, shard_bytes, shard_position_bytes
from rowspan.plan.rigs.outline import Outline
from rowspan.plan.rigs.planned_rig import CardSpec, MemoryKind
from rowspan.plan.shard import Plan, Shard
from rowspan.plan.split import split
from rowspan.plan.split_mode import SplitMode

STEP_TOKENS = 512  # tokens of one step, for which buffers are sized
BLOCK_SIZE = 32  # positions in a KV cache block

# Assumed, not measured: a driver's context and its libraries' workspace take 0.3 to 0.6 GiB on today's cards, and a few
# percent are lost to fragmentation, page tables and a display. Of unified memory the system keeps a quarter (macOS lets
# graphics have three quarters; so do firmware settings of AMD's and NVIDIA's).
CARD_OVERHEAD = 600 << 20
MARGIN: Mapping[MemoryKind, float] = {MemoryKind.GDDR: 0.03, MemoryKind.HBM: 0.03, MemoryKind.UNIFIED: 0.25}
MOST_CARDS = 64  # limit of the search for the fewest cards


@dataclass(frozen=True)
class Load:
    """The load to be served.

    context: tokens of one request.
    parallel: number of requests at once.
    step_tokens: token budget of a step.
    gpu_layers: how many of the first layers are on cards, with the rest in RAM; None: all layers.
    utilization: share of a card's memory that may be used; None: all but a margin.
    """

    context: int
    parallel: int = 1
    cache_types: tuple[str, str] = ("float16", "float16")
    step_tokens: int = STEP_TOKENS
    gpu_layers: int | None = None
    utilization: float | None = None


@dataclass(frozen=True)
class CardNeed:
    """Bytes needed on one card. usable: bytes of its memory that an engine can count on."""

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
    """A model placed on cards with one split. It answers questions of context and slots without splitting again."""

    outline: Outline  # outline of the layers that are on cards
    plan: Plan
    cards: tuple[CardSpec, ...]  # by rank
    weights: tuple[int, ...]  # bytes, by rank
    load: Load
    ram_weights: int  # bytes of weights that stay in RAM
    ram_layers: tuple[AttentionSpec, ...]  # attention of the layers that stay in RAM

    @property
    def mode(self) -> SplitMode:
        return self.plan.mode

    @cached_property
    def needs(self) -> tuple[CardNeed, ...]:
        """Bytes on each card with as many requests at once as the load asks for, all with the load's whole context."""
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
                ),
                overhead=CARD_OVERHEAD,
                usable=usable_bytes(card, self.load.utilization),
            )
            for shard, card, weights in zip(self.plan.shards, self.cards, self.weights, strict=True)
        )

    def fits(self, context: int | None = None, slots: int | None = None) -> bool:
        needs = self.needs_of(context or self.load.context, slots or self.load.parallel)
        return all(need.fits for need in needs)

    def full_slots(self) -> int:
        """Number of requests with the whole context that fit at once, up to the number asked for; 0 if not even one
        fits.
        """
        return largest(self.load.parallel, lambda slots: self.fits(slots=slots))

    def largest_context(self, slots: int) -> int:
        """Tokens that each of `slots` requests can have, up to the model's own context."""
        return largest(self.outline.spec.context_length or self.load.context, lambda tokens: self.fits(tokens, slots))

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM for the layers that are not on cards."""
        load = self.load
        cache = 0
        for mixer, count in Counter(self.ram_layers).items():
            each = count * position_bytes(mixer, mixer.n_units, load.cache_types)
            cache += _cache_bytes((CacheGroup(mixer.window),), [each], load)
        return self.ram_weights + cache

    def _cache(self, shard: Shard, context: int, slots: int) -> int:
        load = replace(self.load, context=context, parallel=slots)
        return _cache_bytes(self.plan.spec.cache_groups, self._position_bytes[shard.rank], load)

    @cached_property
    def _position_bytes(self) -> list[tuple[int, ...]]:
        return [shard_position_bytes(self.plan, shard, self.load.cache_types) for shard in self.plan.shards]


@lru_cache(maxsize=512)  # the answers to a table's questions share most of their placements
def place(
    outline: Outline,
    cards: tuple[CardSpec, ...],
    mode: SplitMode,
    load: Load,
    ratios: tuple[float, ...] | None = None,
) -> Placement:
    """Split a model over cards, by their memory if no ratios are given; `none` takes the card with the most memory.

    Raises:
        SplitError: the model cannot be split so.
    """
    on_cards = outline if load.gpu_layers is None else first_layers(outline, load.gpu_layers)
    usable = [usable_bytes(card, load.utilization) for card in cards]
    shares = list(ratios) if ratios is not None else list(map(float, usable))
    main = max(range(len(cards)), key=usable.__getitem__)
    devices = [Device("cuda", index) for index in range(len(cards))]
    plan = split(on_cards.spec, on_cards.tensors, devices, mode, shares, main)
    weights = tuple(_weights(on_cards, plan, shard, load) for shard in plan.shards)
    ram = 0 if on_cards is outline else outline.file_bytes - sum(weights)
    left = tuple(layer.mixer for layer in outline.spec.layers[on_cards.spec.n_layers :])
    return Placement(
        on_cards, plan, tuple(cards[shard.device.index] for shard in plan.shards), weights, load, ram, left
    )


def fewest_cards(outline: Outline, card: CardSpec, mode: SplitMode, load: Load) -> int | None:
    """Number of cards of one kind on which a single request with the whole context fits; None if no rig has so many."""
    least = max(1, outline.token_bytes // usable_bytes(card, load.utilization))
    for count in range(least, MOST_CARDS + 1):
        try:
            if place(outline, (card,) * count, mode, load).fits(slots=1):
                return count
        except SplitError:
            return None
    return None


def usable_bytes(card: CardSpec, utilization: float | None = None) -> int:
    """Bytes of a card's memory that an engine can count on. Args: utilization: see `Load`."""
    return int(card.memory * min(1 - MARGIN[card.memory_kind], utilization or 1.0))


def first_layers(outline: Outline, count: int) -> Outline:
    """The part of a model that goes onto cards if only the first `count` layers do (at least one); the head goes only
    together with all layers.
    """
    if count >= outline.spec.n_layers:
        return outline
    tensors = {key: info for key, info in outline.tensors.items() if key.layer is not None and key.layer < count}
    return replace(
        outline,
        spec=replace(outline.spec, layers=outline.spec.layers[:count], tied_embeddings=False),
        tensors=tensors,
        rest=outline.rest[:count],
    )


def largest(most: int, is_possible: Callable[[int], bool]) -> int:
    """The largest number up to `most` that is possible, given that all smaller ones are then possible too; 0 if none
    is.
    """
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
    """Bytes of a rank's weights, as in the file: cards keep quantized weights quantized. An embedding that is only
    looked up stays in RAM.
    """
    size = shard_bytes(plan, shard, outline.kinds, "float32", load.cache_types, native=False)
    parts = len(plan.stage(shard.stage))
    rest = outline.rest[shard.layers.start : shard.layers.stop]
    return size.file - size.looked_up + sum(each.whole + -(-each.cut // parts) for each in rest)


def _cache_bytes(groups: tuple[CacheGroup, ...], position_bytes: Sequence[int], load: Load) -> int:
    """Bytes that layers of these groups cache for as many requests as the load has at once, each as long as it allows.

    Args:
        position_bytes: of one position, in all layers of each group.
    """
    layout = CacheLayout(groups, BLOCK_SIZE, load.parallel, load.step_tokens)
    return layout.nbytes(load.parallel * load.context, position_bytes)
