"""Logits that are not finite end their own request with an error, and nobody else's answer changes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import RawTensor, gguf_bytes

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.errors import EngineError, RowspanError
from rowspan.plan.device import parse_devices
from rowspan.scheduler.request import SamplingParams

BROKEN = 77  # the token whose embedding is not finite
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
ASKED = [
    GREEDY,
    replace(GREEDY, logprobs=3),
    replace(GREEDY, temperature=1.0, seed=5, top_p=0.9),
    replace(GREEDY, prompt_logprobs=0),
    replace(GREEDY, repeat_penalty=1.2),
]


@pytest.fixture(scope="module", params=["int8", "float32"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    model, tensors = TinyModel("llama", tied=False), []
    for tensor in model.tensors():
        if tensor.name == "token_embd.weight":
            values = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape).copy()
            values[BROKEN] = np.nan
            tensor = RawTensor(tensor.name, tensor.shape, tensor.ggml_type, values.tobytes())
        tensors.append(tensor)
    path = tmp_path_factory.mktemp("model") / "broken.gguf"
    path.write_bytes(gguf_bytes(model.metadata(), tensors))
    config = EngineConfig(path, parse_devices("cpu:0"), parallel=8, dtype=request.param, prefix_reuse=False)
    with Engine.open(config) as engine:
        yield engine


def answer(engine: Engine, prompt: list[int], params: SamplingParams) -> list[int] | RowspanError:
    try:
        return [token.token for piece in engine.generate(prompt, params) for token in piece.tokens]
    except RowspanError as error:
        return error


@pytest.mark.parametrize("params", ASKED, ids=lambda params: str(ASKED.index(params)))
def test_the_harm_stays_in_its_request(engine: Engine, params: SamplingParams) -> None:
    sound = [[1, 5, 9, number] for number in range(10, 14)]
    alone = [answer(engine, prompt, params) for prompt in sound]
    assert all(isinstance(tokens, list) and len(tokens) == 6 for tokens in alone)
    with ThreadPoolExecutor(8) as pool:
        harmed = [pool.submit(answer, engine, [1, 5, BROKEN, number], params) for number in range(4)]
        others = [pool.submit(answer, engine, prompt, params) for prompt in sound]
    assert [other.result() for other in others] == alone
    for ended in harmed:
        error = ended.result()
        assert isinstance(error, EngineError)
        assert "NaN" in str(error)
        assert "rowspan pull" in str(error)
    assert engine.stats().running == 0
    assert engine.failure is None, "the engine itself is sound"


def test_hidden_states_that_are_not_finite_are_an_error(engine: Engine) -> None:
    assert np.isfinite(engine.embed([1, 2, 3])).all()
    with pytest.raises(EngineError, match="NaN"):
        engine.embed([1, BROKEN, 3])
