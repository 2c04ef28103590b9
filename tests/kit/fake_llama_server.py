"""A llama-server that computes nothing, run as a program: for what a real one does not show on demand.

It speaks as much of llama-server as Rowspan uses. What goes wrong is said by environment variables:

FAKE_LOAD: seconds until it answers. FAKE_DIE: `load` (it ends while loading), `once:FILE` (so until FILE exists),
`answer` (it is killed in the middle of one). FAKE_LAST_WORDS: what it says when it ends while loading. FAKE_ANSWER:
`nonsense`, `error`, `garbage` (no HTTP at all), `short` (it ends without a reason). FAKE_SPIN: a process that it starts
computes all the time, for nothing. FAKE_CHILD: a file that gets the id of a process it starts, which ignores SIGTERM.
FAKE_DEAF: it ignores SIGTERM itself. FAKE_LITTER: a file that gets the paths which a process it starts makes and does
not remove, as vLLM's workers do when they are killed; it also maps /dev/shm/FAKE_SHARED.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HELP = """----- common params -----

-h,    --help                           print usage and exit
-c,    --ctx-size N                     size of the prompt context
-ub,   --ubatch-size N                  physical maximum batch size
-ctk,  --cache-type-k TYPE              KV cache data type for K
                                        allowed values: f32, f16, q8_0, q4_0
                                        (default: f16)
-dev,  --device <dev1,dev2,..>          comma-separated list of devices
--list-devices                          print list of available devices and exit
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM, or 'auto'
-sm,   --split-mode {none,layer,row,tensor}
                                        how to split the model, one of:
                                        - none: use one GPU only
                                        - layer (default): split layers
                                        - row: split rows
                                        - tensor: split tensors
--fit [on|off]                          adjust unset arguments
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer
"""
DEVICES = """Available devices:
  CUDA0: Some Card (24000 MiB, 23000 MiB free)
  CUDA1: Some Card (24000 MiB, 20000 MiB free)
"""
WORDS = (" one", " two", " three", " four", " five")
N_CTX, N_VOCAB, SLOTS = 1024, 4096, 2
LITTER = """
import mmap, os, sys, tempfile, time
names = ["psm_fake_" + str(os.getpid()), "__KMP_REGISTERED_LIB_" + str(os.getpid()) + "_0"]
paths = ["/dev/shm/" + name for name in names]
maps = []
for path in (*paths[:1], "/dev/shm/" + os.environ["FAKE_SHARED"]):
    with open(path, "w+b") as file:
        file.truncate(4096)
        maps.append(mmap.mmap(file.fileno(), 4096))
open(paths[1], "w").close()
paths.append(tempfile.mkstemp()[1])
with open(os.environ["FAKE_LITTER"], "a") as told:
    print(*paths, file=told)
time.sleep(600)
"""
COMMAND = (sys.executable, "-I", "-S", __file__)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)

    def do_GET(self) -> None:
        answers = {
            "/health": {"status": "ok"},
            "/props": {"default_generation_settings": {"n_ctx": N_CTX}, "total_slots": SLOTS},
            "/v1/models": {"data": [{"meta": {"n_vocab": N_VOCAB}}]},
        }
        self._json(200, answers[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['LLAMA_API_KEY']}":
            self._json(401, {"error": {"message": "Invalid API Key"}})
        elif os.environ.get("FAKE_ANSWER") == "error":
            self._json(400, {"error": {"message": "n_probs is too large", "code": 400}})
        elif os.environ.get("FAKE_ANSWER") == "garbage":
            self.wfile.write(b"SSH-2.0 hello\r\n\r\n")
            self.close_connection = True
        else:
            self._stream(body)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = min(body["n_predict"], len(WORDS))
        for place, word in enumerate(WORDS[:count]):
            event: Any = {"content": word, "tokens": [place], "stop": False, "tokens_predicted": place + 1}
            if os.environ.get("FAKE_ANSWER") == "nonsense" and place == 1:
                event = ["what", "is", "this"]
            self._chunk(f"data: {json.dumps(event)}\n\n")
            if os.environ.get("FAKE_DIE") == "answer" and place == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(float(os.environ.get("FAKE_TOKEN_SECONDS", "0")))
        self._chunk(": a comment, to keep the connection open\n\n")
        if os.environ.get("FAKE_ANSWER") != "short":
            timings = {"cache_n": 0, "prompt_n": len(body["prompt"]), "prompt_ms": 2.0, "predicted_ms": 5.0}
            last = {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "tokens_predicted": count}
            # What was asked, for the tests to see.
            self._chunk(f"data: {json.dumps({**last, 'timings': timings, 'asked': body})}\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def _json(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    for option, text in (("--help", HELP), ("--list-devices", DEVICES), ("--version", "version: 1 (fake)")):
        if option in sys.argv:
            print(text)
            return
    if os.environ.get("FAKE_DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("FAKE_LITTER"):
        subprocess.Popen([sys.executable, "-I", "-S", "-c", LITTER])
    if file := os.environ.get("FAKE_CHILD"):
        deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        Path(file).write_text(str(subprocess.Popen([sys.executable, "-c", deaf]).pid))
    if os.environ.get("FAKE_SPIN"):
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
    print("loading the model", flush=True)
    time.sleep(float(os.environ.get("FAKE_LOAD", "0")))
    kind, _, flag = os.environ.get("FAKE_DIE", "").partition(":")
    if kind == "load" or (kind == "once" and not Path(flag).exists()):
        damaged = "ValueError: tensor 'blk.0' is damaged\nTraceback of something else\ngiving up"
        print(os.environ.get("FAKE_LAST_WORDS", damaged), flush=True)
        sys.exit(3)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
