"""The engine from Python, as a user's script would use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowspan import LLM
from rowspan.errors import ModelNotFoundError, RowspanError, UsageError
from rowspan.scheduler.request import FinishReason


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
