"""What Rowspan costs in front of llama-server: throughput of 16 streams and time to the first token, both ways in turn.

    python benchmarks/gateway_overhead.py model.gguf [ROUNDS]

Both servers share the machine with this client, so it wants to be quiet. Prints every round, then medians.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson
import psutil
import uvloop

from rowspan.backends.child import Address, free_port
from rowspan.backends.http_stream import events

STREAMS, TOKENS, PROMPTS = 16, 128, 15
ROWSPAN = [sys.executable, "-c", "from rowspan.cli.main import main; main()"]
WORDS = ("alpha", "river", "stone", "cloud", "seven", "green", "under", "quiet")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@contextmanager
def serving(model: str) -> Iterator[tuple[Address, Address]]:
    """llama-server's own address, and that of Rowspan in front of it."""
    port = free_port()
    options = ["--backend", "llamacpp", "-c", "1024", "-np", str(STREAMS), "--port", str(port)]
    with subprocess.Popen([*ROWSPAN, "serve", model, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "is served" not in (line := process.stderr.readline()):
                if not line:
                    sys.exit("rowspan serve ended")
            (guardian,) = psutil.Process(process.pid).children()
            (server,) = guardian.children()
            command = server.cmdline()
            own_port = int(command[command.index("--port") + 1])
            yield Address(own_port, server.environ()["LLAMA_API_KEY"]), Address(port, "none")
        finally:
            process.terminate()


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


async def latency(address: Address, path: str) -> float:
    """Median milliseconds to the first token of one request at a time."""
    found = []
    for _ in range(PROMPTS):
        what = {"messages": [{"role": "user", "content": text(60)}]} if path == CHAT else {"prompt": text(60)}
        found.append(await first_token(address, path, {**what, "max_tokens": 1}))
    return 1000 * statistics.median(found)


async def measure(addresses: Sequence[Address], rounds: int) -> None:
    rows: tuple[list[tuple[float, float, float]], ...] = ([], [])
    for address in addresses:
        await throughput(address)
    for number in range(rounds):
        for place in (0, 1) if number % 2 else (1, 0):
            one = addresses[place]
            rows[place].append((await throughput(one), await latency(one, COMPLETIONS), await latency(one, CHAT)))
        print("direct {:.1f} t/s {:.2f} {:.2f} ms".format(*rows[0][-1]), end=", ")
        print("through Rowspan {:.1f} t/s {:.2f} {:.2f} ms".format(*rows[1][-1]), flush=True)
    direct, through = ([statistics.median(column) for column in zip(*side, strict=True)] for side in rows)
    print(f"throughput {through[0] / direct[0] - 1:+.1%}")
    print(f"first token: completions {through[1] - direct[1]:+.2f} ms, chat {through[2] - direct[2]:+.2f} ms")


if __name__ == "__main__":
    with serving(sys.argv[1]) as found:
        uvloop.run(measure(found, int(sys.argv[2]) if len(sys.argv) > 2 else 9))
