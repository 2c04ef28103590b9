"""Every family and variation of the transformer against transformers, on random weights."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from kit.gguf_builder import TinyModel
from kit.gguf_bytes import RawTensor, gguf_bytes
from kit.native_isas import EMULATED
from kit.single_rank import SingleRank
from kit.transformers_reference import reference_logits, reference_model

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import available_isas
from rowspan.scheduler.batch import Chunk

YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 32}
YARN_HF = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
CASES: dict[str, tuple[TinyModel, dict[str, Any] | None]] = {
    "llama": (TinyModel("llama"), None),
    "llama untied, one KV head": (TinyModel("llama", tied=False, n_kv_heads=1), None),
    "llama with q/k/v bias": (TinyModel("llama", bias=True), None),
    "llama as SmolLM2: 9 heads, 3 KV heads": (TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288), None),
    "llama linear scaling": (
        TinyModel("llama", rope_scaling={"type": "linear", "factor": 2.0}),
        {"rope_type": "linear", "factor": 2.0},
    ),
    "llama yarn": (TinyModel("llama", rope_scaling=YARN, context_length=128), YARN_HF),
    "mistral": (TinyModel("mistral", tied=False, head_dim=32), None),
    "mistral sliding window": (TinyModel("mistral", sliding_window=9), None),
    "qwen2": (TinyModel("qwen2"), None),
    "qwen2 yarn": (TinyModel("qwen2", rope_scaling=YARN, context_length=128), YARN_HF),
    "qwen3": (TinyModel("qwen3", head_dim=32, n_heads=4), None),
    "qwen3 untied Q8_0": (TinyModel("qwen3", head_dim=32, tied=False, scheme="Q8_0"), None),
    "llama Q4_K with Q6_K": (
        TinyModel("llama", hidden_size=256, ffn_size=512, scheme="Q4_K", schemes={"ffn_down": "Q6_K"}),
        None,
    ),
    "llama IQ4_NL with IQ4_XS": (
        TinyModel("llama", hidden_size=256, ffn_size=512, scheme="IQ4_NL", schemes={"ffn_down": "IQ4_XS"}),
        None,
    ),
    "llama of many schemes, with scales of tensors": (
        TinyModel(
            "llama",
            hidden_size=256,
            ffn_size=512,
            scheme="NVFP4",
            schemes={"token_embd": "IQ3_S", "attn_v": "TQ1_0", "attn_output": "IQ2_XS", "ffn_up": "IQ1_S"},
            tensor_scales=True,
            norm_type="F64",
            tied=False,
        ),
        None,
    ),
}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("case", CASES)
def test_logits_agree_with_transformers(case: str, isa: str, tmp_path: Path) -> None:
    tiny, rope_parameters = CASES[case]
    engine = SingleRank(tiny.write(tmp_path / "tiny.gguf"), isa=isa)
    tokens = random.Random(case).choices(range(engine.spec.vocab_size), k=70)
    ours = engine.logits(tokens)
    theirs = reference_logits(reference_model(tiny, rope_parameters), tokens)
    assert theirs.std() > 0.5, "the model is too flat to tell anything"
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "numpy_type"), [("F64", "<f8"), ("I32", "<i4"), ("I16", "<i2"), ("I8", "i1")])
def test_norms_and_biases_of_other_types_are_the_same_numbers(tmp_path: Path, kind: str, numpy_type: str) -> None:
    tiny, seed = TinyModel("qwen2"), random.Random(kind).getrandbits(32)

    def logits(kind: str, numpy_type: str) -> torch.Tensor:
        """Of the model with small whole numbers, among them negative ones, for its vectors."""
        rng, number, tensors = np.random.default_rng(seed), gguf.GGMLQuantizationType[kind].value, []
        for tensor in tiny.tensors():
            if len(tensor.shape) == 1:
                values = rng.integers(-3, 4, tensor.shape).astype(numpy_type)
                tensor = RawTensor(tensor.name, tensor.shape, number, values.tobytes())
            tensors.append(tensor)
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(gguf_bytes(tiny.metadata(), tensors))
        return SingleRank(path).logits([5, 1, 7, 7, 2])

    wanted = logits("F32", "<f4")
    assert wanted.std() > 0.5, "the model is too flat to tell anything"
    assert torch.equal(logits(kind, numpy_type), wanted)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("window", [None, 9])
def test_rows_that_nobody_asks_for_are_left_out_of_the_last_layer(tmp_path: Path, isa: str, window: int | None) -> None:
    """The others get the same bits, beside prompts that are not at their end, and what is cached is the same."""
    arch = "llama" if window is None else "mistral"
    tiny = TinyModel(arch, n_heads=9, n_kv_heads=3, hidden_size=288, sliding_window=window)
    engine = SingleRank(tiny.write(tmp_path / "tiny.gguf"), isa=isa)
    rng = random.Random(isa)
    tokens = [tuple(rng.choices(range(engine.spec.vocab_size), k=n)) for n in (64, 40, 33, 1, 64)]
    blocks = [tuple(range(3 * i, 3 * i + 3)) for i in range(5)]
    samples = (False, True, False, True, False)
    step = [Chunk(i, tokens[i], 0, blocks[i], samples[i]) for i in range(5)]
    later = [Chunk(i, (7,), len(tokens[i]), blocks[i], True) for i in range(5)]

    expected, expected_later = engine.step(step), engine.step(later)
    found, found_later = engine.step(step, every_token=False), engine.step(later, every_token=False)
    ends = torch.tensor([len(part) for part in tokens]).cumsum(0) - 1
    assert torch.equal(found, expected[ends[[1, 3]]])
    assert torch.equal(found_later, expected_later)
    assert engine.step(step[:1], every_token=False).shape == (0, engine.spec.vocab_size)


def test_llama3_scaling_through_rope_freqs(tmp_path: Path) -> None:
    """The converter stores Llama-3 scaling as one divisor per frequency. The same divisors go into transformers by
    hand: it works them out itself only for its own parameters."""
    tiny = TinyModel("llama", rope_freqs=True)
    engine = SingleRank(tiny.write(tmp_path / "tiny.gguf"))
    reference = reference_model(tiny)
    reference.model.rotary_emb.inv_freq /= torch.from_numpy(tiny.weights()["rope_freqs.weight"])
    tokens = random.Random(3).choices(range(engine.spec.vocab_size), k=70)
    torch.testing.assert_close(engine.logits(tokens), reference_logits(reference, tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("isa", "scheme"), [*product(available_isas(), ["F32", "Q8_0", "Q4_1", "IQ4_NL"]), *product(EMULATED, ["BF16"])]
)
@pytest.mark.parametrize("seed", range(2))
def test_bits_do_not_depend_on_the_company(tmp_path: Path, seed: int, isa: str, scheme: str) -> None:
    """A token's logits are the same to the last bit whether its prompt is computed alone, in aligned chunks, or amid
    other sequences; so a seed gives the same text whoever shares the batch."""
    rng = random.Random(seed)
    tiny = TinyModel("llama", n_heads=9, n_kv_heads=3, hidden_size=288, ffn_size=768, seed=seed, scheme=scheme)
    path = tiny.write(tmp_path / "tiny.gguf")
    if isa in EMULATED:
        engine = SingleRank(path, n_blocks=64, kernels=CpuKernels(isa, 2, int8=True), cache="bfloat16")
    else:
        engine = SingleRank(path, n_blocks=64, isa=isa)
    block = engine.block_size
    length = rng.choice([300, 97, 530])
    prompt = tuple(rng.choices(range(engine.spec.vocab_size), k=length))
    blocks = tuple(range(20))
    alone = engine.step([Chunk(0, prompt, 0, blocks[: -(-length // block)], True)])

    def stranger(place: int) -> Chunk:
        size = rng.choice([1, 1, 1, 3, 50])
        tokens = tuple(rng.choices(range(engine.spec.vocab_size), k=size))
        return Chunk(10 + place, tokens, 0, (40 + 2 * place, 41 + 2 * place), True)

    position = 0
    while position < length:
        size = min(rng.choice([1, 2, 5]) * block, length - position)
        mine = Chunk(0, prompt[position : position + size], position, blocks[: -(-(position + size) // block)], True)
        earlier = [stranger(place) for place in range(rng.randrange(4))]
        chunks = [*earlier, mine, *(stranger(place + 4) for place in range(3))]
        before = sum(len(chunk.tokens) for chunk in earlier)
        got = engine.step(chunks)[before : before + size]
        assert torch.equal(got, alone[position : position + size]), f"positions {position} to {position + size}"
        position += size
