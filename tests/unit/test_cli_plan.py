"""`rowspan plan --gpus` as its users meet it: in terminals of two widths, as JSON, with what can be mistyped."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel
from kit.sparse_server import SparseFile, sparse_site

ASKED = (
    "plan",
    "llama-3-70b:q8_0",
    "--gpus",
    '2xW7900DS,4xRTX4090,2x"RTX 6000 Ada"',
    "--ctx",
    "8192",
    "--parallel",
    "16",
)
HEAVY = ("torch", "numpy", "matplotlib", "rich", "httpx", "huggingface_hub", "psutil")
MAIN = "from rowspan.cli.main import main; main()"


def rowspan(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def in_terminal(columns: int, *arguments: str) -> str:
    """What a terminal of so many columns shows."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen([sys.executable, "-c", MAIN, *arguments], stdout=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # the other end is closed
    process.wait(60)
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    for style in ("\x1b[1m", "\x1b[0m"):
        text = text.replace(style, "")
    return text


def test_nothing_heavy_is_imported() -> None:
    code = (
        f"import sys; sys.argv = {['rowspan', *ASKED]!r}\n"
        "from rowspan.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(("columns", "tables"), [(60, 3), (80, 1), (140, 1)])
def test_it_fits_the_terminal(columns: int, tables: int) -> None:
    shown = in_terminal(columns, *ASKED)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("fits") for line in lines) == tables
    for text in ("2x W7900DS", "4x RTX 4090", "2x RTX 6000 Ada", "6,998", "1800", "Q5_K_M"):
        assert text in shown


def test_json() -> None:
    answer = json.loads(rowspan(*ASKED, "--json").stdout)
    assert [rig["name"] for rig in answer["rigs"]] == ["2x W7900DS", "4x RTX 4090", "2x RTX 6000 Ada"]
    assert answer["recommendation"]


def test_what_if() -> None:
    answers = json.loads(rowspan("plan", "llama-3-8b", "--gpus", "RX 9070 XT", "--quant", "f16,q8_0", "--json").stdout)
    assert [(each["model"]["quantization"], each["rigs"][0]["fits"]) for each in answers] == [
        ("F16", False),
        ("Q8_0", True),
    ]


def test_a_split_alone_and_a_price() -> None:
    answer = json.loads(
        rowspan("plan", "llama-3-70b:q8_0", "--gpus", "4x4090", "-sm", "layer", "--price", "4090=1000", "--json").stdout
    )
    (rig,) = answer["rigs"]
    assert list(rig["splits"]) == ["layer"]
    assert rig["price_usd"] == 4000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("llama-3-70b", "--gpus", "2xRTX 4900"), "Did you mean"),
        (("lama-3-70b", "--gpus", "4090"), "llama-3-70b"),
        (("llama-3-70b:q9", "--gpus", "4090"), "Q4_K_M"),
        (("llama-3-70b", "--gpus", "4090", "--price", "x"), "--price"),
        (("llama-3-70b", "--gpus", "4090", "--link", "wire"), "p2p"),
        (("llama-3-70b", "--gpus", "4090", "--engine", "tgi"), "vulkan"),
        (("llama-3-70b", "--gpus", "2x4090", "-ts", "1,2,3"), "shares"),
        (("llama-3-70b", "--gpus", "2x4090", "-ts", "0,0"), "positive"),
        (("llama-3-70b", "--gpus", "4090", "-c", "8193"), "made for"),
        (("llama-3-70b", "--gpus", "4090", "-ctk", "i16"), "f16"),
        (("llama-3-70b", "--gpus", "4090", "--measure"), "--measure"),
        (("llama-3-70b:q8_0",), "--gpus"),
        (("llama-3-70b", "--quant", "q8_0"), "--gpus"),
        ((), "--list"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], says: str) -> None:
    done = rowspan("plan", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_names_are_listed() -> None:
    shown = rowspan("plan", "--list").stdout
    assert "W7900DS" in shown
    assert "llama-3.1-405b" in shown


def test_a_repository_of_hugging_face(tmp_path: Path) -> None:
    model = TinyModel(name="Hubbed").to_bytes()
    tree = json.dumps(
        [{"type": "file", "path": name, "size": 5, "oid": "0"} for name in ("README.md", "a-Q8_0.gguf", "a-F32.gguf")]
    ).encode()
    files = {
        "/api/models/org/repo/tree/main": SparseFile(tree, len(tree)),
        "/org/repo/resolve/main/a-F32.gguf": SparseFile(model, len(model)),
    }
    with sparse_site(files) as site:
        done = rowspan(
            "plan", "hf:org/repo:F32", "--gpus", "4090", "--json", HF_ENDPOINT=site.url, HF_HOME=str(tmp_path)
        )
        assert json.loads(done.stdout)["model"]["name"] == "Hubbed", done.stderr
        missing = rowspan("plan", "hf:org/repo:Q2_K", "--gpus", "4090", HF_ENDPOINT=site.url, HF_HOME=str(tmp_path))
        assert missing.returncode == 2
        assert "a-Q8_0.gguf" in missing.stderr


def test_a_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib: not installed")
    done = rowspan(*ASKED, "--plot", str(tmp_path / "chart.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    refused = rowspan(*ASKED, "--plot", str(tmp_path / "chart.xyz"))
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_a_chart_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules['matplotlib'] = None; sys.argv = {['rowspan', *ASKED, '--plot', 'x.png']!r}\n{MAIN}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "pip install 'rowspan[plot]'" in done.stderr
