"""Choosing among the kernels of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.bench.engines.native_jobs import _option_fields
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import RankKernels, make_blueprint
from rowspan.errors import UsageError
from rowspan.kernels.isa import TORCH, TRITON, available_isas, choose_isa
from rowspan.plan.device import Device


def test_the_best_is_chosen_and_torch_is_always_there() -> None:
    isas = available_isas()
    assert isas[-1] == TORCH
    assert choose_isa(None) == choose_isa("") == isas[0]
    assert [choose_isa(isa) for isa in isas] == isas


def test_what_the_machine_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="ROWSPAN_CPU_ISA=amx9 cannot be had") as refusal:
        choose_isa("amx9")
    assert TORCH in refusal.value.why


def test_the_environment_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    monkeypatch.setenv("ROWSPAN_CPU_ISA", TORCH)
    dense = make_blueprint(EngineConfig(path).with_env())
    assert {setup.cpu_isa for setup in dense.setups()} == {TORCH}
    monkeypatch.setenv("ROWSPAN_CPU_ISA", "sse")
    with pytest.raises(UsageError):
        make_blueprint(EngineConfig(path).with_env())
    assert make_blueprint(EngineConfig(path)).lead.cpu_isa == choose_isa(None), "only who asks for it"
    named = {"ROWSPAN_CPU_ISA": TORCH, "ROWSPAN_CARD_KERNELS": TRITON}
    assert EngineConfig(path).with_env(named) == EngineConfig(path, cpu_isa=TORCH, card_kernels=TRITON)
    assert EngineConfig(path, cpu_isa="avx2").with_env(named).cpu_isa == "avx2"
    assert EngineConfig(path).with_env({"ROWSPAN_CPU_ISA": ""}) == EngineConfig(path)


def test_native_kernels_are_for_int8_and_float32(tmp_path: Path) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    assert make_blueprint(EngineConfig(path, dtype="bfloat16")).lead.cpu_isa == TORCH


def test_cards_get_tritons_kernels_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    config = EngineConfig(path, devices=(Device("cuda", 0),), card_kernels=None)
    for found, kernels in ((True, TRITON), (None, TORCH)):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        assert make_blueprint(config).lead == RankKernels(kernels, "bfloat16", ("bfloat16", "bfloat16"))
        assert make_blueprint(replace(config, dtype="float32")).lead.cpu_isa == TORCH
    with pytest.raises(UsageError, match="int8"):
        make_blueprint(replace(config, dtype="int8"))
    with pytest.raises(UsageError, match="ROWSPAN_CARD_KERNELS=triton cannot be had"):
        make_blueprint(replace(config, card_kernels=TRITON))


def test_tritons_kernels_run_on_cpus_in_its_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UsageError):
        choose_isa(TRITON)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_isa(TRITON) == TRITON


@pytest.mark.parametrize(("hidden", "cache_dtype"), [(64, "int16"), (96, "float16")])
def test_the_cache_is_int16_beside_int8_if_heads_allow_it(tmp_path: Path, hidden: int, cache_dtype: str) -> None:
    path = TinyModel(scheme="Q8_0", hidden_size=hidden, n_heads=4).write(tmp_path / "m.gguf")
    assert make_blueprint(EngineConfig(path, dtype="int8")).lead.cache_dtypes == (cache_dtype, cache_dtype)
    assert make_blueprint(EngineConfig(path, dtype="float32")).lead.cache_dtypes == ("float32", "float32")


def test_int8_needs_native_kernels(tmp_path: Path) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="int8"):
        make_blueprint(EngineConfig(path, dtype="int8", cpu_isa=TORCH))
    with pytest.raises(UsageError, match="i16"):
        make_blueprint(EngineConfig(path, cache_type_k="i16", cpu_isa=TORCH))
    assert make_blueprint(EngineConfig(path, cpu_isa=TORCH)).lead.dtype == "float32"


def test_tensors_have_q8_0_caches_as_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a scale for each head, so heads may have any size; keys and values alike on Triton's kernels."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = TinyModel(hidden_size=80, n_heads=2, n_kv_heads=1, n_layers=3, ffn_size=80).write(tmp_path / "m.gguf")
    for isa, dtype in ((TORCH, "float32"), (TRITON, "float16")):
        config = EngineConfig(path, cpu_isa=isa, dtype=dtype, cache_type_k="q8_0", cache_type_v="q8_0")
        blueprint = make_blueprint(config)
        assert blueprint.lead.cache_dtypes == ("int8", "int8")
        assert blueprint.sizes[0].cache_per_token == 3 * 1 * 2 * (40 + 4)  # layers · KV heads · (K, V) · (codes, scale)
        assert _option_fields(blueprint)["type_k"] == "q8_0"
    assert make_blueprint(EngineConfig(path, cpu_isa=TORCH, cache_type_k="q8_0")).lead.cache_dtypes == (
        "int8",
        "float32",
    )
    with pytest.raises(UsageError, match="--cache-type-k is q8_0 and --cache-type-v float16"):
        make_blueprint(EngineConfig(path, cpu_isa=TRITON, dtype="float16", cache_type_k="q8_0"))
