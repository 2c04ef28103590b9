"""Hidden states from a running engine: of a text's last token or of all, over every split, beside generation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kit.gguf_builder import TinyModel
from kit.transformers_reference import reference_hidden, reference_model

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.errors import ContextOverflowError, UsageError
from rowspan.kernels.isa import TORCH, native_module
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams, WantedStates

MODEL = TinyModel("llama", n_heads=4, n_kv_heads=2, n_layers=3, context_length=256)
SPLITS = [("cpu:0", "none"), ("cpu:0,cpu:1", "layer"), ("cpu:0,cpu:1", "row")]
ISAS = [TORCH, *([""] if native_module() is not None else [])]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODEL.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(params=[(isa, *split) for isa in ISAS for split in SPLITS], ids=str)
def engine(path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    isa, devices, mode = request.param
    config = EngineConfig(
        path,
        devices=parse_devices(devices),
        split_mode=SplitMode(mode),
        cpu_isa=isa or None,
        dtype="float32",
        parallel=4,
        token_budget=64,
        block_size=16,
        context_size=192,
        cache_tokens=320,
    )
    with Engine.open(config) as engine:
        yield engine


def test_hidden_states_are_those_of_transformers(engine: Engine) -> None:
    """Texts of several steps, and of a beginning that is in the cache; preempted, too, by those who generate."""
    reference = reference_model(MODEL)
    rng = random.Random(0)
    texts = [rng.choices(range(200), k=length) for length in (1, 16, 100, 192)]

    def check(text: list[int]) -> None:
        expected = reference_hidden(reference, text).numpy()
        for states, rows in ((WantedStates.ALL, expected), (WantedStates.LAST, expected[-1:])) * 2:
            found = engine.embed(text, states)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, rows, atol=2e-4, rtol=1e-3)

    def generate(prompt: list[int]) -> list[int]:
        pieces = engine.generate(prompt, SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
        return [token.token for piece in pieces for token in piece.tokens]

    alone = [generate(text[:50]) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        generated = pool.map(generate, [text[:50] for text in texts])
        for done in [pool.submit(check, text) for text in texts]:
            done.result()
        assert list(generated) == alone
    assert engine.stats().blocks_used == 0


def test_what_cannot_be_embedded_is_refused(path: Path) -> None:
    with Engine.open(EngineConfig(path, context_size=64, block_size=16)) as engine:
        with pytest.raises(ContextOverflowError, match="65 tokens; the context holds 64"):
            engine.embed([1] * 65)
        with pytest.raises(UsageError, match="empty"):
            engine.embed([])
        with pytest.raises(UsageError, match="does not have"):
            engine.embed([10**6])
        assert engine.embed([1] * 64).shape == (1, 64)
