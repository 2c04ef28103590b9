"""The engine from Python, as a user's script would use it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rowspan import LLM
from rowspan.engine.generation import Piece
from rowspan.engine.python_tools import PythonTool, tools_by_name
from rowspan.errors import ModelNotFoundError, RowspanError, UsageError
from rowspan.scheduler.request import FinishReason

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def llm(tiny_path: Path) -> Iterator[LLM]:
    with LLM(str(tiny_path), context_size=256) as llm:
        yield llm


def test_chat_stream_and_complete(llm: LLM) -> None:
    answer = llm.chat("Hello", temperature=0, max_tokens=12, ignore_eos=True)
    assert len(answer.tokens) == 12
    assert answer.finish is FinishReason.LENGTH
    assert str(answer) == answer.text
    messages = [{"role": "user", "content": "Hello"}]
    assert "".join(llm.stream(messages, temperature=0, max_tokens=12, ignore_eos=True)) == answer.text
    assert llm.complete("Hello", temperature=0, max_tokens=3, ignore_eos=True).prompt_tokens < answer.prompt_tokens


def test_unknown_options_are_named(llm: LLM, tiny_path: Path) -> None:
    with pytest.raises(UsageError, match="'temprature'"):
        llm.chat("Hello", temprature=0)
    with pytest.raises(UsageError, match="'contextsize'"):
        LLM(str(tiny_path), contextsize=8)
    with pytest.raises(UsageError, match="'diagonal'"):
        LLM(str(tiny_path), split="diagonal")
    with pytest.raises(ModelNotFoundError):
        LLM("./nothing.gguf")


def test_a_closed_engine_says_so(tiny_path: Path) -> None:
    llm = LLM(str(tiny_path), context_size=64)
    llm.close()
    with pytest.raises(RowspanError, match="shutting down"):
        llm.chat("Hello")


def test_a_script_needs_no_main_guard_and_loads_no_torch(tiny_path: Path, tmp_path: Path) -> None:
    """Workers are started by name, not by forking or importing the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from rowspan import LLM\n"
        f"llm = LLM({str(tiny_path)!r}, devices='cpu:0,cpu:1', split='row', context_size=64)\n"
        "print(len(llm.chat('Hi', temperature=0, max_tokens=4, ignore_eos=True).tokens), 'torch' in sys.modules)\n"
    )
    # It does not close the engine either: the end of the script does.
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["4", "False"]
    assert done.stderr == ""


def test_several_texts_at_once_are_answered_as_alone(llm: LLM) -> None:
    prompts = [f"text {number}" for number in range(9)]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    together = llm.generate(prompts, **options)
    assert [answer.text for answer in together] == [llm.complete(prompt, **options).text for prompt in prompts]
    ids = llm.engine.tokenizer.encode(prompts[0])
    assert llm.generate([ids], **options)[0].text == together[0].text
    with pytest.raises(UsageError, match="list of prompts"):
        llm.generate("text")


def test_scores_are_the_answers_log_probabilities(llm: LLM) -> None:
    said = llm.complete("text", temperature=0, max_tokens=6, ignore_eos=True, logprobs=0)
    tokens = [*llm.engine.tokenizer.encode("text"), *(token.token for token in said.tokens)]
    text = llm.engine.tokenizer.decode(tokens)
    if llm.engine.tokenizer.encode(text) == tokens:  # else the text is other tokens
        (score,) = llm.score([text])
        assert [token.logprob for token in score.tokens[-6:]] == pytest.approx(
            [t.logprob for t in said.tokens], abs=1e-4
        )
    first, second = llm.score(["hello hello", "hello"])
    assert first.logprob == pytest.approx(sum(token.logprob or 0 for token in first.tokens))
    assert first.tokens[0].logprob is None
    assert first.logprob < second.logprob


def test_a_schema_is_kept_to(llm: LLM) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    answer = llm.chat("Hello", schema=schema, max_tokens=200, seed=3)
    assert all(isinstance(one, bool) for one in json.loads(answer.text))


def add(first: int, second: int = 2) -> int:
    """The sum of two numbers."""
    return first + second


HERMES = 'Each call is <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
CALL = '<tool_call>\n{"name": "add", "arguments": {"first": 40}}\n</tool_call>'


def test_functions_are_described_called_and_their_results_told(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    answers = [CALL, "The sum is 42."]

    def encode_chat(messages: Any, **options: Any) -> list[int]:
        told.append((list(messages), options))
        return [1]

    def generate(tokens: Any, params: Any, stops: Any = (), **options: Any) -> Iterator[Piece]:
        yield Piece(answers.pop(0), (), 1, FinishReason.STOP)

    monkeypatch.setattr(llm.engine, "template", SimpleNamespace(source=HERMES))
    monkeypatch.setattr(llm.engine, "encode_chat", encode_chat)
    monkeypatch.setattr(llm.engine, "generate", generate)
    answer = llm.chat("What is 40 + 2?", tools=[add])
    assert answer.text == "The sum is 42."
    described = told[0][1]["tools"][0]["function"]
    assert (described["name"], described["description"]) == ("add", "The sum of two numbers.")
    assert described["parameters"]["required"] == ["first"]
    assert [message["role"] for message in answer.messages] == ["assistant", "tool"]
    assert answer.messages[1]["content"] == "42"
    assert told[1][0][1:] == list(answer.messages), "the model is told"


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ('{"first": 1}', "3"),
        ('{"first": 1, "second": 5}', "6"),
        ('{"first": "x"}', "Error: Input should be a valid integer"),
        ("{}", "Error: Field required"),
        ('{"first": 1, "third": 1}', "Error: Extra inputs"),
        ("{", "Error: Invalid JSON"),
    ],
)
def test_what_a_model_writes_is_checked_before_a_function_gets_it(arguments: str, result: str) -> None:
    assert PythonTool.of(add).call(arguments).startswith(result)


def test_functions_that_fail_or_cannot_be_tools() -> None:
    def broken() -> None:
        raise ValueError("no")

    def odd(*names: str) -> None: ...

    assert PythonTool.of(broken).call("") == "Error: ValueError: no"
    with pytest.raises(UsageError, match="names"):
        PythonTool.of(odd)
    with pytest.raises(UsageError, match="one name"):
        tools_by_name([add, add])


def test_async_forms_give_the_same(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}

    async def ask() -> tuple[str, str]:
        answer = await llm.achat("Hello", **options)
        return answer.text, "".join([piece async for piece in llm.astream("Hello", **options)])

    plain = llm.chat("Hello", **options).text
    assert asyncio.run(ask()) == (plain, plain)


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(5))
def test_the_documentations_examples_run(number: int, tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny model, which knows nothing: what they claim of SmolLM2's knowledge is left out."""
    code = examples()[number].replace('"smollm2:135m"', repr(str(tiny_path)))
    code = code.replace("    assert likely.logprob > unlikely.logprob\n", "").replace("max_tokens=64", "max_tokens=400")
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "example"})
    assert len(examples()) == 5
