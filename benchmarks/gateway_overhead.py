"""What Rowspan costs in front of llama-server: throughput of 16 streams and time to the first token, both ways in turn.

    python benchmarks/gateway_overhead.py model.gguf [--rounds 15] [--apart]

Both servers share the machine with this client, so it wants to be quiet. Prints every round, then how much is lost, and
how sure that is. `--apart` gives llama-server one half of the cores, and the other half to all else: as where a card
computes, what the gateway costs is not taken from the model.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import psutil
import uvloop

from rowspan.backends.process.child import Address, free_port
from rowspan.backends.process.http_stream import events
from rowspan.bench.results.change import change

STREAMS, TOKENS, PROMPTS = 16, 64, 10
ROWSPAN = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]
WORDS = ("alpha", "river", "stone", "cloud", "seven", "green", "under", "quiet")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@contextmanager
def serving(model: str, *, apart: bool) -> Iterator[tuple[Address, Address]]:
    """llama-server's own address, and that of Rowspan in front of it."""
    port, cores = free_port(), sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    options = ["--backend", "llamacpp", "-c", "1024", "-np", str(STREAMS), "--port", str(port)]
    options += ["--threads", str(half)] if apart else []
    with subprocess.Popen([*ROWSPAN, "serve", model, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "is served" not in (line := process.stderr.readline()):
                if not line:
                    sys.exit("rowspan serve ended")
            (guardian,) = psutil.Process(process.pid).children()
            (server,) = guardian.children()
            if apart:
                keep_to(cores[:half], server.pid)
                for process_id in (process.pid, os.getpid()):
                    keep_to(cores[half:], process_id)
            command = server.cmdline()
            own_port = int(command[command.index("--port") + 1])
            yield Address(own_port, server.environ()["LLAMA_API_KEY"]), Address(port, "none")
        finally:
            process.terminate()


def keep_to(cores: list[int], process_id: int) -> None:
    """All threads that there are, and those that they start."""
    for thread in psutil.Process(process_id).threads():
        os.sched_setaffinity(thread.id, cores)


def text(count: int) -> str:
    """Never the same twice, so that no prompt is found in a cache."""
    return " ".join(random.choice(WORDS) for _ in range(count))


async def first_token(address: Address, path: str, body: dict[str, object]) -> float:
    """Seconds to the first event, read to the end."""
    began = time.perf_counter()
    first = 0.0
    async for _ in events(address, path, orjson.dumps({"temperature": 0, "stream": True, **body})):
        first = first or time.perf_counter() - began
    return first


async def throughput(address: Address) -> float:
    """Tokens per second of all streams together."""
    began = time.perf_counter()
    bodies = [{"prompt": text(30), "max_tokens": TOKENS, "ignore_eos": True} for _ in range(STREAMS)]
    await asyncio.gather(*(first_token(address, COMPLETIONS, body) for body in bodies))
    return STREAMS * TOKENS / (time.perf_counter() - began)


async def added_latency(direct: Address, through: Address, path: str) -> list[float]:
    """Milliseconds by which the first token comes later, of requests one by one, both ways in turn. Prompts are short:
    what passes through the gateway does not depend on them, and how long they compute only hides it."""
    found = []
    for number in range(PROMPTS):
        what = {"messages": [{"role": "user", "content": text(4)}]} if path == CHAT else {"prompt": text(4)}
        seconds = {}
        # Who comes second finds the beginning of a chat in the cache.
        for one in (direct, through) if number % 2 else (through, direct):
            seconds[one] = await first_token(one, path, {**what, "max_tokens": 1})
        found.append(1000 * (seconds[through] - seconds[direct]))
    return found


async def measure(direct: Address, through: Address, rounds: int) -> None:
    rates: tuple[list[float], list[float]] = ([], [])
    later: dict[str, list[float]] = {COMPLETIONS: [], CHAT: []}
    for address in (direct, through):
        await throughput(address)
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            rates[place].append(await throughput((direct, through)[place]))
        for path, found in later.items():
            found.extend(await added_latency(direct, through, path))
        print(f"direct {rates[0][-1]:.1f} t/s, through Rowspan {rates[1][-1]:.1f} t/s", flush=True)
    print(f"throughput {change(*rates)}")
    for path, found in later.items():
        low, middle, high = statistics.quantiles(found)
        print(f"first token, {path}: {middle:+.2f} ms (half of all between {low:+.2f} and {high:+.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--apart", action="store_true")
    given = parser.parse_args()
    with serving(given.model, apart=given.apart) as found:
        uvloop.run(measure(*found, given.rounds))
