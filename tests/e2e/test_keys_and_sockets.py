"""Who may use the server, and over what: keys of a file, HTTPS, a Unix socket."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from kit.http_server import eventually, serving

from rowspan.config import ServerConfig
from rowspan.engine.engine import Engine
from rowspan.errors import UsageError
from rowspan.server.keys import KeyRing
from rowspan.server.listen import AddressError, bind

HASH = hashlib.sha256(b"hashed-key").hexdigest()


def status(http: httpx.Client, key: str) -> int:
    return http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def write(file: Path, text: str) -> None:
    """As an editor does, a moment later than before."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (time.time(), time.time() + len(text)))
    new.replace(file)


def test_keys_of_a_file_come_and_go_without_a_restart(tiny_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    write(file, f"# who may\nann ann-key\nbob sha256:{HASH}  # by hash\nlonely-key\n")
    config = ServerConfig(api_keys=frozenset({"typed-key"}), api_key_file=file)
    with serving(tiny_engine, config) as running, running.client() as http:
        for key in ("ann-key", "hashed-key", "lonely-key", "typed-key"):
            assert status(http, key) == 200, key
        for key in ("ann", "bob", HASH, f"sha256:{HASH}", "Ann-key"):
            assert status(http, key) == 401, key
        write(file, "cleo cleo-key\n")
        assert eventually(lambda: status(http, "ann-key") == 401)
        assert (status(http, "cleo-key"), status(http, "typed-key"), status(http, "hashed-key")) == (200, 200, 401)
        file.unlink()
        time.sleep(1.1)
        assert status(http, "cleo-key") == 200, "a file that is gone lets nobody else in, and throws nobody out"


def test_an_empty_file_still_asks_for_a_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nobody\n")
    ring = KeyRing(file=tmp_path / "keys")
    assert ring
    assert ring.matching(b"") is None
    assert not KeyRing()


@pytest.mark.parametrize("text", [None, "one two three\n"])
def test_a_file_of_keys_that_cannot_be_read_is_no_start(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match=r"--api-key-file .*cannot be read"):
        KeyRing(file=tmp_path / "keys")


def test_a_unix_socket(tiny_engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with serving(tiny_engine, ServerConfig(host=str(path))):
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as http:
            body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
            assert http.post("/v1/chat/completions", json=body).status_code == 200
        with pytest.raises(AddressError, match="Another program listens"):
            bind(str(path), 0)
    bind(str(path), 0).close()  # one that was left behind is replaced
    with pytest.raises(AddressError, match="Cannot listen"):
        bind(str(tmp_path / "none" / "r.sock"), 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https(tiny_engine: Engine, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    with serving(tiny_engine, ServerConfig(ssl_files=(certificate, key))) as running:
        address = running.url.replace("http://", "https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{address}/v1/models", verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/v1/models")
