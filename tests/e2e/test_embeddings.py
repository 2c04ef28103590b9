"""Embeddings and relevance over real HTTP, by OpenAI's, Ollama's and LangChain's clients: they are transformers'."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
import torch
from kit.encoder_reference import LoadedReference
from kit.encoders import CLASSIFIER_MODEL, ENCODER, WORDS
from kit.gguf_builder import TinyModel
from kit.http_server import MODEL_NAME, RunningServer, serving
from kit.transformers_reference import reference_hidden, reference_logits, reference_model

from rowspan import LLM
from rowspan.config import EngineConfig, ServerConfig
from rowspan.engine.engine import Engine
from rowspan.engine.pooling import Pooling, pooling_of, unit
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.server.yes_no import TASK

DECODER = TinyModel("qwen2", context_length=128, extra={"qwen2.pooling_type": 3})
JUDGE = TinyModel("qwen3", context_length=512, name="Tiny Qwen3 Reranker")
TEXTS = ["alpha beta", "gamma", "delta alpha alpha beta", "alpha " * 60]


def config(path: Path, **options: Any) -> EngineConfig:
    return EngineConfig(path, dtype="float32", threads=2, parallel=4, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ENCODER[0].write(tmp_path_factory.mktemp("encoder") / "m.gguf")


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[RunningServer]:
    with Engine.open(config(path)) as engine, serving(engine, ServerConfig()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@cache
def reference() -> LoadedReference:
    return LoadedReference(*ENCODER)


def expected(server: RunningServer, texts: Sequence[str], dimensions: int | None = None) -> np.ndarray:
    encode = server.engine.tokenizer.encode
    means = [reference().states(encode(text)).mean(axis=0)[:dimensions] for text in texts]
    return np.array([mean / np.linalg.norm(mean) for mean in means])


def check(found: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found), wanted, atol=2e-6)


def test_openai(server: RunningServer, client: openai.OpenAI) -> None:
    """Its client asks for base64; both forms, tokens instead of texts, and fewer dimensions."""
    wanted = expected(server, TEXTS)
    answer = client.embeddings.create(model=MODEL_NAME, input=TEXTS)
    check([one.embedding for one in answer.data], wanted)
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    tokens = [server.engine.tokenizer.encode(text) for text in TEXTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, tokens))
    for given, rows in ((TEXTS[0], wanted[:1]), (tokens[0], wanted[:1]), (tokens, wanted)):
        again = client.embeddings.create(model=MODEL_NAME, input=given, encoding_format="float")
        check([one.embedding for one in again.data], rows)
    few = client.embeddings.create(model=MODEL_NAME, input=TEXTS, dimensions=16)
    check([one.embedding for one in few.data], expected(server, TEXTS, 16))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": []}, "input"),
        ({"input": [""] * 2049}, "2048"),
        ({"input": "alpha", "dimensions": 65}, "64"),
        ({"input": [7, 8]}, "check_embedding_ctx_length"),
        ({"input": [2, 10**6]}, "vocabulary"),
        ({"input": "alpha " * 600}, "602 tokens; the context holds 512"),
        ({"input": "alpha", "model": "other"}, "other"),
    ],
)
def test_what_cannot_be_embedded_is_refused(http: httpx.Client, body: dict[str, Any], says: str) -> None:
    answer = http.post("/v1/embeddings", json=body)
    assert 400 <= answer.status_code < 500
    assert says in answer.json()["error"]["message"]


def test_long_texts_are_cut_where_asked(server: RunningServer, http: httpx.Client) -> None:
    text = "beta " + "alpha " * 600
    for most in (10, -1):
        body = {"input": text, "truncate_prompt_tokens": most}
        answer = http.post("/v1/embeddings", json=body).json()
        length = 512 if most == -1 else most
        assert answer["usage"]["prompt_tokens"] == length
        check([answer["data"][0]["embedding"]], expected(server, ["beta " + "alpha " * (length - 3)]))


def test_ollama(server: RunningServer, http: httpx.Client) -> None:
    llama = ollama.Client(server.url)
    answer = llama.embed(MODEL_NAME, TEXTS)
    check(answer.embeddings, expected(server, TEXTS))
    assert answer.prompt_eval_count == sum(len(server.engine.tokenizer.encode(text)) for text in TEXTS)
    check([llama.embeddings(MODEL_NAME, TEXTS[0]).embedding], expected(server, TEXTS[:1]))
    check(llama.embed(MODEL_NAME, TEXTS[0], dimensions=8).embeddings, expected(server, TEXTS[:1], 8))
    check(llama.embed(MODEL_NAME, "alpha " * 600).embeddings, expected(server, ["alpha " * 510]))
    with pytest.raises(ollama.ResponseError, match="602 tokens"):
        llama.embed(MODEL_NAME, "alpha " * 600, truncate=False)
    assert llama.show(MODEL_NAME).capabilities == ["embedding"]


def test_langchain(server: RunningServer) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model=MODEL_NAME, check_embedding_ctx_length=False
    )
    check(embeddings.embed_documents(TEXTS), expected(server, TEXTS))
    check([embeddings.embed_query(TEXTS[1])], expected(server, TEXTS[1:2]))


def test_llama_server(server: RunningServer, http: httpx.Client) -> None:
    answer = http.post("/embedding", json={"content": TEXTS[:2]}).json()
    check([one["embedding"][0] for one in answer], expected(server, TEXTS[:2]))
    (plain,) = http.post("/embeddings", json={"input": TEXTS[0], "embd_normalize": -1}).json()
    raw = reference().states(server.engine.tokenizer.encode(TEXTS[0])).mean(axis=0)
    np.testing.assert_allclose(plain["embedding"][0], raw, atol=2e-5)


def test_relevance_by_embeddings(server: RunningServer, http: httpx.Client) -> None:
    body = {"query": TEXTS[0], "documents": [TEXTS[1], {"text": TEXTS[2]}, TEXTS[3]], "return_documents": True}
    results = http.post("/v1/rerank", json=body).json()["results"]
    asked, *documents = expected(server, TEXTS)
    cosines = {index: asked @ document for index, document in enumerate(documents)}
    assert [one["index"] for one in results] == sorted(cosines, key=lambda index: -cosines[index])
    for one in results:
        assert one["relevance_score"] == pytest.approx(cosines[one["index"]], abs=1e-5)
        assert one["document"] == {"text": TEXTS[1 + one["index"]]}
    best = http.post("/rerank", json={**body, "top_n": 1, "return_documents": False}).json()["results"]
    assert best == [{key: results[0][key] for key in ("index", "relevance_score")}]


def test_an_encoder_writes_nothing(http: httpx.Client) -> None:
    for route, body in (
        ("/v1/completions", {"prompt": "alpha"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "alpha"}]}),
    ):
        answer = http.post(route, json=body)
        assert answer.status_code == 400
        assert "is an encoder" in answer.json()["error"]["message"]


def test_company_changes_nothing(server: RunningServer) -> None:
    """Texts of all lengths at once, more than run at once, and some whose clients leave: the same bits as alone."""
    rng, engine = random.Random(0), server.engine
    texts = [[2, *rng.choices(range(5, 5 + len(WORDS)), k=rng.choice([0, 1, 5, 70, 300])), 3] for _ in range(40)]
    alone = [engine.embedding(text) for text in texts]

    async def together() -> list[Any]:
        tasks = [asyncio.create_task(engine.embedding_async(text)) for text in texts]
        await asyncio.sleep(0.002)
        for task in tasks[::7]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for index, (one, found) in enumerate(zip(alone, asyncio.run(together()), strict=True)):
        if index % 7 or not isinstance(found, asyncio.CancelledError):
            assert np.array_equal(found, one)
    assert server.is_idle()


@pytest.mark.parametrize("mode", ["layer", "row"])
def test_splits_embed_alike(server: RunningServer, path: Path, mode: str) -> None:
    devices = parse_devices("cpu:0,cpu:1")
    with Engine.open(config(path, devices=devices, split_mode=SplitMode(mode))) as engine:
        found = [unit(engine.embedding(engine.tokenizer.encode(text))) for text in TEXTS]
    check(found, expected(server, TEXTS))


def test_relevance_by_a_reranker(tmp_path: Path) -> None:
    path, classifier = CLASSIFIER_MODEL[0].write(tmp_path / "m.gguf"), LoadedReference(*CLASSIFIER_MODEL)
    with Engine.open(config(path)) as engine, serving(engine, ServerConfig()) as server, server.client() as http:
        documents = TEXTS[1:]
        results = http.post("/v1/rerank", json={"query": TEXTS[0], "documents": documents}).json()["results"]
        scores = [one["relevance_score"] for one in results]
        assert scores == sorted(scores, reverse=True)
        for one in results:
            first, second = (engine.tokenizer.encode(text) for text in (TEXTS[0], documents[one["index"]]))
            ((logit,),) = classifier.states([*first, *second[1:]])
            assert one["relevance_score"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
        refused = http.post("/v1/embeddings", json={"input": "alpha"})
        assert refused.status_code == 400
        assert "reranker" in refused.json()["error"]["message"]


def test_relevance_by_yes_or_no(tmp_path: Path) -> None:
    """The words' first tokens stand for them in this vocabulary."""
    path, theirs = JUDGE.write(tmp_path / "m.gguf"), reference_model(JUDGE)
    with Engine.open(config(path)) as engine, serving(engine, ServerConfig()) as server, server.client() as http:
        documents = ["hello world", "the cat", "x"]
        body = {"query": "a question", "documents": documents, "instruction": "Be strict"}
        results = http.post("/v1/rerank", json=body).json()["results"]
        yes, no = (engine.tokenizer.encode(word)[0] for word in ("yes", "no"))
        for one in results:
            asked = f"<Instruct>: Be strict\n<Query>: a question\n<Document>: {documents[one['index']]}"
            messages = [{"role": "system", "content": TASK}, {"role": "user", "content": asked}]
            logits = reference_logits(theirs, engine.encode_chat(messages, enable_thinking=False))[-1]
            wanted = 1 / (1 + np.exp(float(logits[no] - logits[yes])))
            assert one["relevance_score"] == pytest.approx(wanted, abs=1e-4)
        assert sorted(one["index"] for one in results) == [0, 1, 2]


def test_a_decoder_embeds_as_its_file_says_or_as_asked(tmp_path: Path) -> None:
    path = DECODER.write(tmp_path / "m.gguf")
    texts = ["hello world", "x", "hello " * 40]
    reference = reference_model(DECODER)
    with LLM(str(path), dtype="float32", threads=1) as llm:
        found = llm.embed(texts)
        for text, vector in zip(texts, found, strict=True):
            tokens = llm.engine.tokenizer.encode(text)
            states = reference_hidden(reference, tokens).numpy()
            check(vector, states[-1] / np.linalg.norm(states[-1]))
            np.testing.assert_allclose(
                Pooling.MEAN.of(llm.engine.embed(tokens, Pooling.MEAN.states)), states.mean(axis=0), atol=2e-5
            )
        assert llm.embed([]).size == 0
        assert llm.embed(texts, dimensions=8).shape == (3, 8)
        with pytest.raises(UsageError, match="list of texts"):
            llm.embed("hello")
        spec = llm.engine.blueprint.spec
    said = {"qwen2.pooling_type": 1}
    assert pooling_of("cls", spec, said) is Pooling.CLS
    assert pooling_of(None, spec, said) is Pooling.MEAN
    assert pooling_of(None, spec, {}) is Pooling.LAST
    with pytest.raises(UsageError, match="no classifier"):
        LLM(str(path), pooling="rank")


@pytest.mark.heavy
def test_minilm() -> None:
    """The real model, fetched by its short name, against transformers with the weights of the same package."""
    import transformers
    from kit.minilm import minilm_folder

    with minilm_folder() as folder, LLM("minilm", dtype="float32") as llm, LLM("minilm") as rounded:
        theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        texts = ["Paris is the capital of France.", "café NAÏVE 北京", "x", "the cat sat " * 120]
        found, coarse = llm.embed(texts), rounded.embed(texts)
        for text, vector, other in zip(texts, found, coarse, strict=True):
            given = tokenizer(text, return_tensors="pt")
            assert llm.engine.tokenizer.encode(text) == given["input_ids"][0].tolist()
            with torch.inference_mode():
                states = theirs(**given).last_hidden_state[0].numpy()
            mean = states.mean(axis=0)
            assert vector @ (mean / np.linalg.norm(mean)) > 0.999999
            assert other @ vector > 0.9999  # attention in 16-bit integers, as is the default
        one, same, different = llm.embed(["A cat sleeps.", "A kitten naps.", "Stocks fell on Monday."])
        assert one @ same > 0.5 > one @ different
