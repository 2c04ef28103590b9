"""What guessed tokens bring: the same requests with and without, in turn, on one machine.

    python benchmarks/speculation.py [MODEL] [--rounds 5]

Editing: the model is given a page of code, and asked to repeat it; most of its answer has been said before. Prose: a
story, of which next to nothing has. Each round has another page and another story, so that no round's answer is known
from the one before. Answers must be equal; rates are those of decoding, without the prompt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

from rowspan import hub
from rowspan.config import MOST_GUESSES, EngineConfig
from rowspan.engine.engine import Engine
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams

SOURCES = Path(__file__).parent.parent / "src/rowspan"
PAGES = (
    "scheduler/scheduler.py",
    "kvcache/blocks.py",
    "text/stop.py",
    "plan/shares.py",
    "model/header.py",
    "json_store.py",
)
HEROES = ("a lighthouse keeper", "a baker", "two sailors", "an old clock", "a lost letter", "a tired king")
PAGE = 1500  # characters
TOKENS = 256


def prompts(kind: str, number: int) -> str:
    if kind == "editing":
        code = (SOURCES / PAGES[number % len(PAGES)]).read_text()[PAGE : 2 * PAGE]
        return f"Repeat this code exactly, and write nothing else:\n```python\n{code}\n```"
    return f"Tell me a long story about {HEROES[number % len(HEROES)]}."


def measure(engine: Engine, prompt: str) -> tuple[float, list[int]]:
    """Tokens a second after the first, and the answer."""
    tokens = engine.encode_chat([{"role": "user", "content": prompt}])
    first, said = 0.0, list[int]()
    for piece in engine.generate(tokens, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)):
        first = first or time.perf_counter()
        said += [token.token for token in piece.tokens]
    return (len(said) - 1) / (time.perf_counter() - first), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=hub.DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = hub.resolve(options.model).path
    config = EngineConfig(path, split_mode=SplitMode.NONE, parallel=4, context_size=2048)
    with (
        Engine.open(config) as without,
        Engine.open(replace(config, guesses=MOST_GUESSES)) as guessing,
    ):
        print("| text | without, t/s | with, t/s | ratio | guesses that were right |\n| --- | --- | --- | --- | --- |")
        for kind in ("editing", "prose"):
            before, rates = guessing.stats(), {False: list[float](), True: list[float]()}
            for number in range(options.rounds):
                plain, said = measure(without, prompts(kind, number))
                guessed, same = measure(guessing, prompts(kind, number))
                assert said == same, "the answers differ"
                rates[False].append(plain)
                rates[True].append(guessed)
            after = guessing.stats()
            made = after.guessed_tokens - before.guessed_tokens
            right = after.right_guesses - before.right_guesses
            off, on = statistics.median(rates[False]), statistics.median(rates[True])
            ratio = statistics.median(b / a for a, b in zip(rates[False], rates[True], strict=True))
            print(f"| {kind} | {off:.1f} | {on:.1f} | {ratio:.2f} | {right} of {made} |")


if __name__ == "__main__":
    main()
