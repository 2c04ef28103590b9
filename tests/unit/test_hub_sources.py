"""Downloads against a local server that imitates a file host, Hugging Face and ModelScope, faults included."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import filelock
import pytest

from rowspan import hub
from rowspan.config import HubConfig
from rowspan.errors import DownloadError, ModelNotFoundError
from rowspan.hub.quantization import Room

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_bytes(seed: int, size: int = 300_000) -> bytes:
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


@dataclass
class Site:
    """Files by name, how to misbehave, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers are these errors
    etags: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handler_for(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            if path == "/moved":
                return self.answer(302, b"", {"Location": "/files/a.gguf"})
            if path == "/api/models/org/repo/tree/main":
                tree: list[dict[str, object]] = [{"type": "directory", "path": "d", "oid": "0"}]
                tree += [{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in site.files.items()]
                return self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            if path == "/api/v1/models/org/repo/repo/files":
                listed = [{"Path": n, "Size": len(d), "Sha256": sha(d), "Type": "blob"} for n, d in site.files.items()]
                body = {"Code": 200, "Data": {"Files": [{"Path": "d", "Type": "tree"}, *listed]}}
                return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            if path == "/api/v1/models/org/repo/repo":
                return self.file(parse_qs(parts.query)["FilePath"][0])
            for prefix in ("/files/", "/org/repo/resolve/main/"):
                if path.startswith(prefix):
                    return self.file(path.removeprefix(prefix))
            # Hugging Face's way of saying that there is no such repository
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def file(self, name: str) -> None:
            if name not in site.files:
                return self.answer(404, b"", {})
            data = site.files[name]
            headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if site.etags:
                headers["ETag"] = f'"{sha(data)}"'
            if self.command == "HEAD":
                return self.answer(200, data, headers)
            asked = self.headers["Range"]
            site.ranges.append(asked)
            if site.statuses:
                return self.answer(site.statuses.pop(0), b"", {})
            if asked and self.headers["If-Range"] in (None, headers.get("ETag")):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                return self.answer(206, data[start:], headers)
            return self.answer(200, data, headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                cut = site.cut_after.pop(0) if site.cut_after and status in (200, 206) else len(body)
                self.wfile.write(body[:cut])
                self.close_connection = cut < len(body)

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(files={"a.gguf": model_bytes(1)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(site: Site, tmp_path: Path) -> HubConfig:
    return HubConfig(
        cache=tmp_path / "cache",
        modelscope_endpoint=site.url,
        huggingface_endpoint=site.url,
        huggingface_cache=tmp_path / "hf",
        choose_by_machine=False,
        attempts=3,
        retry_delay=0.01,
    )


class Watcher:
    """A ProgressSink that remembers."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.totals: list[int | None] = []
        self.done: list[int] = []
        self.open = 0

    def start(self, label: str, total: int | None) -> None:
        self.open += 1
        self.labels.append(label)
        self.totals.append(total)

    def advance_to(self, done: int) -> None:
        assert self.open
        self.done.append(done)

    def finish(self) -> None:
        self.open -= 1


def leftovers(config: HubConfig) -> list[str]:
    return [path.name for path in config.cache.rglob("*.part*")]


def test_a_url_is_fetched_once(site: Site, config: HubConfig) -> None:
    watcher = Watcher()
    name = f"{site.url}/files/a.gguf"
    files = hub.resolve(name, config=config, progress=watcher)
    assert files.path.read_bytes() == site.files["a.gguf"]
    assert (files.name, files.size, files.sha256) == (name, 300_000, sha(site.files["a.gguf"]))
    assert watcher.totals == [300_000]
    assert watcher.done[-1] == 300_000
    assert watcher.open == 0
    assert hub.resolve(name, config=config, offline=True) == files
    assert len(site.ranges) == 1
    assert leftovers(config) == []
    assert [model.source for model in hub.installed(config)] == [name]


def test_redirects_are_followed(site: Site, config: HubConfig) -> None:
    assert hub.resolve(f"{site.url}/moved", config=config).path.read_bytes() == site.files["a.gguf"]


def test_a_cut_connection_is_resumed(site: Site, config: HubConfig) -> None:
    site.cut_after = [100_000, 50_000]
    watcher = Watcher()
    files = hub.resolve(f"{site.url}/files/a.gguf", config=config, progress=watcher)
    assert files.path.read_bytes() == site.files["a.gguf"]
    assert site.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert watcher.labels[-1].startswith("Resuming")
    assert watcher.done == sorted(watcher.done)


def test_an_interrupted_download_is_resumed_by_the_next_call(site: Site, config: HubConfig) -> None:
    class Interrupted(Watcher):
        def advance_to(self, done: int) -> None:
            raise KeyboardInterrupt

    site.cut_after = [200_000]
    with pytest.raises(KeyboardInterrupt):
        hub.resolve(f"{site.url}/files/a.gguf", config=config, progress=Interrupted())
    assert hub.installed(config) == []
    assert hub.resolve(f"{site.url}/files/a.gguf", config=config).path.read_bytes() == site.files["a.gguf"]
    assert site.ranges[1] is not None


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changed_in_between_is_fetched_anew(site: Site, config: HubConfig, etags: bool) -> None:
    site.etags = etags
    site.cut_after = [100_000]
    name = f"{site.url}/files/a.gguf"
    once = HubConfig(cache=config.cache, attempts=1, huggingface_cache=config.huggingface_cache)
    with pytest.raises(DownloadError):
        hub.resolve(name, config=once)
    site.files["a.gguf"] = model_bytes(2, 250_000)
    assert hub.resolve(name, config=config).path.read_bytes() == site.files["a.gguf"]


def test_a_whole_part_file_is_only_renamed(site: Site, config: HubConfig) -> None:
    name = f"{site.url}/files/a.gguf"
    path = hub.resolve(name, config=config).path
    shutil.move(path, path.with_name(path.name + ".part"))
    path.with_name(path.name + ".part.tag").write_text(f'"{sha(site.files["a.gguf"])}"')
    assert hub.resolve(name, config=config).path.read_bytes() == site.files["a.gguf"]
    assert site.ranges == [None, "bytes=300000-"]


def test_errors_of_the_moment_are_retried_and_others_are_not(site: Site, config: HubConfig) -> None:
    site.statuses = [503, 429]
    assert hub.resolve(f"{site.url}/files/a.gguf", config=config).size == 300_000
    site.statuses = [500, 502, 503]
    site.files["b.gguf"] = model_bytes(3)
    with pytest.raises(DownloadError, match="503"):
        hub.resolve(f"{site.url}/files/b.gguf", config=config)
    site.ranges.clear()
    site.statuses = [403]
    with pytest.raises(DownloadError, match="login"):
        hub.resolve(f"{site.url}/files/b.gguf", config=config)
    assert len(site.ranges) == 1
    with pytest.raises(ModelNotFoundError):
        hub.resolve(f"{site.url}/files/none.gguf", config=config)


def test_a_server_that_is_not_there(config: HubConfig, site: Site) -> None:
    with pytest.raises(DownloadError) as caught:
        hub.resolve("http://127.0.0.1:9/a.gguf", config=config)
    assert caught.value.why
    assert caught.value.fix


def test_a_checksum_that_differs_leaves_nothing(site: Site, config: HubConfig) -> None:
    address = f"{site.url}/files/a.gguf"
    with pytest.raises(DownloadError, match="SHA-256"):
        hub.resolve(f"{address}#sha256={'0' * 64}", config=config)
    assert hub.installed(config) == []
    assert leftovers(config) == []
    assert hub.resolve(f"{address}#sha256={sha(site.files['a.gguf'])}", config=config).size == 300_000


def test_a_checksum_is_compared_with_what_is_here_already(site: Site, config: HubConfig) -> None:
    address, first = f"{site.url}/files/a.gguf", site.files["a.gguf"]
    path = hub.resolve(address, config=config).path
    with pytest.raises(DownloadError, match="SHA-256"):
        hub.resolve(f"{address}#sha256={'0' * 64}", config=config)
    assert path.read_bytes() == first, "what was asked for before is still here"
    assert leftovers(config) == []
    asked = len(site.ranges)
    assert hub.resolve(f"{address}#sha256={sha(first)}", config=config).path == path
    assert len(site.ranges) == asked, "the right one is not fetched again"
    site.files["a.gguf"] = second = model_bytes(99)
    assert hub.resolve(f"{address}#sha256={sha(second)}", config=config).path == path
    assert path.read_bytes() == second
    assert hub.resolve(address, config=config).sha256 == sha(second)


def test_a_web_page_is_no_model(site: Site, config: HubConfig) -> None:
    site.files["page.gguf"] = b"<!DOCTYPE html><p>Please log in"
    with pytest.raises(DownloadError, match="not a GGUF file"):
        hub.resolve(f"{site.url}/files/page.gguf", config=config)
    assert hub.installed(config) == []


@pytest.mark.parametrize("damage", ["shorter", "longer", "no record", "broken record"])
def test_a_damaged_file_is_fetched_again(site: Site, config: HubConfig, damage: str) -> None:
    name = f"{site.url}/files/a.gguf"
    path = hub.resolve(name, config=config).path
    record = path.with_name(path.name + ".json")
    match damage:
        case "shorter":
            path.write_bytes(path.read_bytes()[:-1])
        case "longer":
            path.write_bytes(path.read_bytes() + b"x")
        case "no record":
            record.unlink()
        case _:
            record.write_text("[1, 2")
    assert hub.installed(config) == []
    assert hub.resolve(name, config=config).path.read_bytes() == site.files["a.gguf"]
    assert len(site.ranges) == 2


def test_a_full_disk_is_seen_before_it_is_full(site: Site, config: HubConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(config.cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=299_999))
    with pytest.raises(DownloadError, match="does not fit on the disk"):
        hub.resolve(f"{site.url}/files/a.gguf", config=config)


def test_a_cache_that_cannot_be_written_is_explained(site: Site, config: HubConfig) -> None:
    config.cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="ROWSPAN_CACHE"):
        hub.resolve(f"{site.url}/files/a.gguf", config=config)


def test_two_at_a_time_download_once(site: Site, config: HubConfig) -> None:
    name = f"{site.url}/files/a.gguf"
    sizes: list[int] = []
    threads = [threading.Thread(target=lambda: sizes.append(hub.resolve(name, config=config).size)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [300_000] * 4
    assert len(site.ranges) == 1


def test_waiting_for_another_process_is_announced(site: Site, config: HubConfig) -> None:
    name = f"{site.url}/files/a.gguf"
    path = hub.resolve(name, config=config).path
    path.unlink()
    held = threading.Event()

    def hold() -> None:
        with filelock.FileLock(path.with_name(path.name + ".lock")):
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    watcher = Watcher()
    hub.resolve(name, config=config, progress=watcher)
    thread.join()
    assert watcher.labels[0].startswith("Waiting")


def test_offline_refuses_what_is_not_here(site: Site, config: HubConfig) -> None:
    for name in (f"{site.url}/files/a.gguf", "hf:org/repo", "ms:org/repo", "smollm2"):
        with pytest.raises(ModelNotFoundError, match="not on this machine"):
            hub.resolve(name, config=config, offline=True)
    assert site.ranges == []


def split_model(site: Site) -> list[bytes]:
    parts = [model_bytes(seed, 50_000) for seed in (10, 11, 12)]
    site.files = {f"d/big-Q4_0-{index:05d}-of-00003.gguf": data for index, data in enumerate(parts, 1)}
    site.files["README.md"] = b"# big"
    return parts


@pytest.mark.parametrize("form", ["{url}/files/d/big-Q4_0-00002-of-00003.gguf", "hf:org/repo:q4_0", "ms:org/repo"])
def test_a_split_model_comes_with_all_its_parts(site: Site, config: HubConfig, form: str) -> None:
    parts = split_model(site)
    watcher = Watcher()
    files = hub.resolve(form.format(url=site.url), config=config, progress=watcher)
    assert files.size == 150_000
    assert files.path.name == "big-Q4_0-00001-of-00003.gguf"
    found = [files.path.with_name(f"big-Q4_0-{index:05d}-of-00003.gguf").read_bytes() for index in (1, 2, 3)]
    assert found == parts
    assert watcher.open == 0
    (model,) = hub.installed(config)
    assert (model.size, model.path) == (150_000, files.path)
    assert hub.resolve(model.source, config=config, offline=True).path == files.path


@pytest.mark.parametrize("hub_name", ["hf", "ms"])
def test_a_repository_of_several_models(site: Site, config: HubConfig, hub_name: str) -> None:
    site.files = {f"m-{scheme}.gguf": model_bytes(index) for index, scheme in enumerate(("Q8_0", "Q4_K_M", "Q2_K"))}
    watcher = Watcher()
    chosen = hub.resolve(f"{hub_name}:org/repo", config=config, progress=watcher)
    assert chosen.path.read_bytes() == site.files["m-Q4_K_M.gguf"]
    assert watcher.done[-1] == watcher.totals[-1] == 300_000
    other = hub.resolve(f"{hub_name}:org/repo:q8_0", config=config)
    assert other.path.read_bytes() == site.files["m-Q8_0.gguf"]
    with pytest.raises(ModelNotFoundError, match=r"m-Q2_K\.gguf"):
        hub.resolve(f"{hub_name}:org/repo:Q3_K_M", config=config)
    assert {model.source for model in hub.installed(config)} == {
        f"{hub_name}:org/repo:m-Q4_K_M.gguf",
        f"{hub_name}:org/repo:m-Q8_0.gguf",
    }
    asked = len(site.ranges)
    assert hub.resolve(f"{hub_name}:org/repo:Q8_0", config=config, offline=True).path == other.path
    assert len(site.ranges) == asked


@pytest.mark.parametrize("hub_name", ["hf", "ms"])
@pytest.mark.parametrize(
    ("room", "scheme", "why"),
    [
        (Room(cards=0, ram=10**6), "Q8_0", "leave more than half"),
        (Room(cards=220_000, ram=10**6), "Q4_K_M", "fit into the cards'"),
        (Room(cards=100_000, ram=10**6), "Q2_K", "Q4_K_M's"),
    ],
)
def test_the_quantization_that_fits_the_machine_is_fetched(
    site: Site, config: HubConfig, hub_name: str, room: Room, scheme: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"Q8_0": 300_000, "Q4_K_M": 200_000, "Q2_K": 100_000}
    site.files = {f"m-{name}.gguf": model_bytes(1, size) for name, size in sizes.items()}
    monkeypatch.setattr("rowspan.hub.machine.room_for_weights", lambda: room)
    watcher = Watcher()
    files = hub.resolve(f"{hub_name}:org/repo", config=replace(config, choose_by_machine=True), progress=watcher)
    assert files.size == sizes[scheme]
    assert any(f" as {scheme}: " in label and why in label for label in watcher.labels)
    assert hub.resolve(f"{hub_name}:org/repo", config=config, offline=True).path == files.path


@pytest.mark.parametrize("hub_name", ["hf", "ms"])
def test_a_repository_that_does_not_exist(site: Site, config: HubConfig, hub_name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        hub.resolve(f"{hub_name}:no/such", config=config)


def test_a_file_name_that_points_out_of_the_cache(site: Site, config: HubConfig) -> None:
    site.files = {"../../evil.gguf": model_bytes(1)}
    with pytest.raises(DownloadError, match="points out of the cache"):
        hub.resolve("ms:org/repo", config=config)


def test_a_catalog_model_from_hugging_face_is_listed_by_its_name(site: Site, config: HubConfig) -> None:
    snapshot = config.huggingface_cache / "models--Qwen--Qwen3-0.6B-GGUF" / "snapshots" / COMMIT  # type: ignore[operator]
    snapshot.mkdir(parents=True)
    (snapshot / "Qwen3-0.6B-Q8_0.gguf").write_bytes(model_bytes(1))
    (model,) = hub.installed(config)
    assert model.name == "qwen3:0.6b"
    assert hub.resolve("qwen3:0.6b", config=config, offline=True).path == model.path
    assert [entry.name for entry, path in hub.catalog_state(config) if path] == ["qwen3:0.6b"]
