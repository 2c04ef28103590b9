"""What fits on cards: known cases, and what must hold of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.dense_spec import dense_spec

from rowspan.errors import SplitError
from rowspan.plan.fit import shard_bytes
from rowspan.plan.rigs.capacity import Load, Placement, fewest_cards, largest, place, usable_bytes
from rowspan.plan.rigs.model_shapes import find_model, known_models
from rowspan.plan.rigs.outline import Outline, outline_of_spec
from rowspan.plan.rigs.planned_rig import CardSpec, MemoryKind
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.catalog.known_cards import find_card

GIB = 1 << 30
BY_BITS = ("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32")
SMALL = ("llama-3.2-1b", "qwen2.5-7b", "mixtral-8x7b", "gemma-2-9b", "deepseek-v2-lite", "llama-3-70b")


def outline(name: str, scheme: str = "Q8_0") -> Outline:
    known = find_model(name)
    assert known is not None
    return outline_of_spec(known.spec, scheme)


def card(gib: float) -> CardSpec:
    return replace(find_card("RTX 4090"), name=f"{gib} GiB", memory=int(gib * GIB))


OUTLINES = {(name, scheme): outline(name, scheme) for name in SMALL for scheme in BY_BITS}
loads = st.builds(
    Load,
    context=st.integers(64, 100_000),
    parallel=st.integers(1, 64),
    cache_types=st.sampled_from([("float16", "float16"), ("q8_0", "q8_0"), ("float32", "float16")]),
    gpu_layers=st.none() | st.integers(1, 90),
)
rigs = st.lists(st.integers(4, 96).map(card), min_size=1, max_size=6).map(tuple)
models = st.sampled_from(SMALL)
modes = st.sampled_from(list(SplitMode))


def placed(model: Outline, cards: tuple[CardSpec, ...], mode: SplitMode, load: Load) -> Placement | None:
    try:
        return place(model, cards, mode, load)
    except SplitError:
        return None


@pytest.mark.parametrize("mode", [SplitMode.LAYER, SplitMode.ROW])
@pytest.mark.parametrize(
    ("count", "name", "fits"),
    [
        (3, "RTX 4090", False),
        (3, "RTX 3090", False),
        (4, "RTX 4090", True),
        (2, "W7900DS", True),
        (2, "RTX A6000", True),
    ],
)
def test_llama_3_70b_q8_0(count: int, name: str, mode: SplitMode, fits: bool) -> None:
    """The question this began with: 3 x 24 GB is just not enough; 4 x 24 and 2 x 48 are."""
    model = outline("llama-3-70b")
    for context in (512, 8192):
        assert place(model, (find_card(name),) * count, mode, Load(context)).fits() is fits
    assert not place(model, (find_card(name),) * count, SplitMode.NONE, Load(512)).fits()


def test_llama_3_70b_s_published_bytes() -> None:
    model = outline("llama-3-70b")
    assert model.file_bytes == pytest.approx(75.0e9, rel=0.001)
    need = place(model, (card(200),), SplitMode.NONE, Load(1000)).needs[0]
    assert need.cache == 1000 * 320 * 1024  # 320 KiB a token in f16


def test_fewest_cards() -> None:
    model = outline("llama-3-70b")
    for mode in (SplitMode.LAYER, SplitMode.ROW):
        assert fewest_cards(model, find_card("RTX 4090"), mode, Load(8192)) == 4
        assert fewest_cards(model, find_card("W7900DS"), mode, Load(8192)) == 2
        assert fewest_cards(model, find_card("MI300X"), mode, Load(8192)) == 1
        assert fewest_cards(model, card(1), mode, Load(8192)) is None


@pytest.mark.parametrize("model", [m.name for m in known_models()])
def test_layers_on_one_card_hold_the_whole_file_but_a_looked_up_embedding(model: str) -> None:
    whole = outline(model, "Q4_K_M")
    (weights,) = place(whole, (card(1000),), SplitMode.NONE, Load(512)).weights
    assert weights == whole.resident_bytes


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen2.5-7b", "llama-3.2-1b"])
@pytest.mark.parametrize("mode", SplitMode)
def test_the_cache_is_counted_as_the_engine_counts_it(name: str, mode: SplitMode) -> None:
    model = outline(name)
    for types in (("float16", "float16"), ("q8_0", "float32"), ("int16", "int16")):
        placement = place(model, (card(80),) * 3, mode, Load(640, 2, types))
        for shard, need in zip(placement.plan.shards, placement.needs, strict=True):
            size = shard_bytes(placement.plan, shard, model.tensors, "float32", types, native=True)
            assert need.cache == 2 * 640 * size.cache_per_token


def test_logits_are_of_one_step_however_many_wait() -> None:
    model, cards = outline("llama-3-8b"), (card(80),)
    many, few = (place(model, cards, SplitMode.NONE, Load(512, n)).needs[0].activations for n in (10**6, 512))
    assert many == few


def test_windows_limit_the_cache() -> None:
    gemma = outline("gemma-3-27b")
    short, long = (place(gemma, (card(400),), SplitMode.NONE, Load(tokens)).needs[0].cache for tokens in (1024, 131072))
    assert long < 128 * short / 4  # five of six layers keep 1024 and a batch


def test_latent_attention_keeps_one_row_for_all_heads() -> None:
    model = outline("deepseek-v2-lite")
    key, value = 512 + 64, 512  # the latent is both: its tiles for keys and for values lie in different orders
    assert place(model, (card(80),), SplitMode.NONE, Load(1000)).needs[0].cache == 1000 * 27 * (key + value) * 2


def test_partial_offload_leaves_the_rest_in_ram() -> None:
    model = outline("llama-3-70b")
    cards = (card(24), card(24))
    placements = [place(model, cards, SplitMode.LAYER, Load(8192, gpu_layers=n)) for n in (10, 40, 60, 80, 100)]
    weights = [sum(placement.weights) for placement in placements]
    assert weights == sorted(weights)
    assert [placement.ram_weights > 0 for placement in placements] == [True, True, True, False, False]
    for placement in placements[:3]:
        assert sum(placement.weights) + placement.ram_weights == model.file_bytes
    assert placements[1].fits()
    assert not placements[3].fits()


@settings(max_examples=60)
@given(name=models, scheme=st.sampled_from(BY_BITS), cards=rigs, mode=modes, load=loads)
def test_a_plan_never_exceeds_a_device(
    name: str, scheme: str, cards: tuple[CardSpec, ...], mode: SplitMode, load: Load
) -> None:
    placement = placed(OUTLINES[name, scheme], cards, mode, load)
    if placement is None:
        return
    slots = placement.full_slots()
    assert 0 <= slots <= load.parallel
    if slots:
        for need in placement.needs_of(load.context, slots):
            assert need.total <= usable_bytes(need.card) < need.card.memory
    for requests in (1, load.parallel):
        context = placement.largest_context(requests)
        assert 0 <= context <= placement.outline.spec.context_length
        if context:
            assert all(need.total <= need.usable for need in placement.needs_of(context, requests))
            if context < placement.outline.spec.context_length:
                assert not placement.fits(context + 1, requests)


@settings(max_examples=60)
@given(name=models, cards=rigs, mode=modes, load=loads, more=st.integers(1, 5000), slots=st.integers(1, 9))
def test_needs_rise_with_context_and_slots(
    name: str, cards: tuple[CardSpec, ...], mode: SplitMode, load: Load, more: int, slots: int
) -> None:
    placement = placed(OUTLINES[name, "Q4_K_M"], cards, mode, load)
    if placement is None:
        return
    here, longer, wider = (
        [need.total for need in placement.needs_of(*at)]
        for at in (
            (load.context, load.parallel),
            (load.context + more, load.parallel),
            (load.context, load.parallel + slots),
        )
    )
    assert all(a <= b for a, b in zip(here, longer, strict=True))
    assert all(a <= b for a, b in zip(here, wider, strict=True))


@settings(max_examples=40)
@given(name=models, gib=st.integers(4, 200), mode=modes, count=st.integers(1, 4), context=st.integers(64, 9000))
def test_more_bits_never_fit_where_fewer_do_not(name: str, gib: int, mode: SplitMode, count: int, context: int) -> None:
    fits = []
    needs = []
    for scheme in BY_BITS:
        placement = placed(OUTLINES[name, scheme], (card(gib),) * count, mode, Load(context))
        if placement is None:  # blocks of 256 that heads cannot align with
            return
        fits.append(placement.fits())
        needs.append(sum(need.total for need in placement.needs))
    assert needs == sorted(needs)
    assert fits == sorted(fits, reverse=True)


@settings(max_examples=30)
@given(scheme=st.sampled_from(BY_BITS), cards=rigs, mode=modes, context=st.integers(64, 9000))
def test_the_parts_of_a_model_are_the_whole(
    scheme: str, cards: tuple[CardSpec, ...], mode: SplitMode, context: int
) -> None:
    model = OUTLINES["qwen2.5-7b", scheme]
    placement = placed(model, cards, mode, Load(context))
    if placement is None:
        return
    vectors = sum(info.nbytes for key, info in model.tensors.items() if len(info.shape) == 1)
    held = sum(placement.weights)
    assert model.resident_bytes <= held <= model.resident_bytes + (len(placement.weights) - 1) * vectors


@given(most=st.integers(0, 10**6), limit=st.integers(0, 10**6))
def test_largest_is_found_by_halves(most: int, limit: int) -> None:
    assert largest(most, lambda number: number <= limit) == min(most, limit)


def test_unified_memory_is_shared_with_the_system() -> None:
    mac = find_card("M2 Ultra")
    assert mac.memory_kind is MemoryKind.UNIFIED
    assert usable_bytes(mac) == mac.memory * 3 // 4


def test_a_model_of_more_cards_than_layers_is_refused() -> None:
    spec = dense_spec(n_layers=2, hidden_size=256, n_heads=4, n_kv_heads=4, head_dim=64, ffn_size=512, vocab_size=1000)
    with pytest.raises(SplitError, match="2 layers"):
        place(outline_of_spec(spec, "Q8_0"), (card(24),) * 3, SplitMode.LAYER, Load(512))
