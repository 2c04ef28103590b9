"""Conversations: how they are kept, found and exchanged. Files from elsewhere become sound trees, whatever they say."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.console.attachments import pdf_text
from rowspan.console.conversations import Conversations, UnknownConversationError
from rowspan.console.exchange import branch, read_conversations, to_json, to_markdown
from rowspan.errors import RowspanError, UsageError

Json = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "deep" / "conversations.sqlite")


def say(store: Conversations, owner: str, conversation: str, *texts: str) -> None:
    """Put texts one below the other, by turns of user and model."""
    parent = None
    for index, text in enumerate(texts):
        role = ("user", "assistant")[index % 2]
        name = f"m{index}"
        store.put_message(owner, conversation, name, {"parent": parent, "role": role, "content": text, "data": {}})
        parent = name


def test_a_conversation_is_kept_with_its_branches(store: Conversations, tmp_path: Path) -> None:
    store.put("", "a", {"title": "First", "settings": {"temperature": 0}})
    say(store, "", "a", "hello", "hi", "and?")
    other = {"parent": "m0", "role": "assistant", "content": "hullo", "data": {"model": "m"}}
    store.put_message("", "a", "n1", other)
    found = store.get("", "a")
    assert found["settings"] == {"temperature": 0}
    assert [message["content"] for message in found["messages"]] == ["hello", "hi", "and?", "hullo"]
    assert [message["content"] for message in branch(found)] == ["hello", "hullo"], "the newest branch is shown"
    store.put("", "a", {"leaf": "m2"})
    assert [message["content"] for message in branch(store.get("", "a"))] == ["hello", "hi", "and?"]
    store.put_message("", "a", "n1", {**other, "content": "hullo there"})
    store.close()
    again = Conversations(tmp_path / "deep" / "conversations.sqlite").get("", "a")
    assert again["messages"][-1]["content"] == "hullo there"
    assert again["messages"][-1]["data"] == {"model": "m"}
    assert stat.S_IMODE((tmp_path / "deep" / "conversations.sqlite").stat().st_mode) == 0o600


def test_list_search_pin_and_delete(store: Conversations) -> None:
    for name, title in (("a", "Cats"), ("b", "100 % wool_"), ("c", "")):
        store.put("", name, {"title": title})
    say(store, "", "a", "Do cats purr?", "They do, as a\nrule of thumb, and for long.")
    store.put("", "c", {"pinned": True})
    assert [one["id"] for one in store.listed("")] == ["c", "a", "b"], "pinned ones first, then what was said last"
    (found,) = store.listed("", "rule of THUMB")
    assert found["id"] == "a"
    assert found["found"] == "They do, as a rule of thumb, and for long."
    assert [one["id"] for one in store.listed("", "cats")] == ["a"]
    assert [one["id"] for one in store.listed("", "%")] == ["b"], "no wildcard"
    assert [one["id"] for one in store.listed("", "_")] == ["b"]
    store.delete("", "a")
    assert [one["id"] for one in store.listed("")] == ["c", "b"]
    for forbidden in (store.get, store.delete):
        with pytest.raises(UnknownConversationError):
            forbidden("", "a")


def test_owners_see_their_own(store: Conversations) -> None:
    store.put("one", "a", {"title": "mine"})
    store.put("two", "a", {"title": "yours"})
    store.prefer("one", "theme", "dark")
    assert store.get("one", "a")["title"] == "mine"
    assert store.get("two", "a")["title"] == "yours"
    assert store.listed("three") == []
    assert (store.preferences("one"), store.preferences("two")) == ({"theme": "dark"}, {})
    store.delete("one", "a")
    assert store.get("two", "a")["title"] == "yours"
    with pytest.raises(UnknownConversationError):
        say(store, "one", "a", "hello")


def test_many_write_at_once(store: Conversations) -> None:
    store.put("", "a", {})
    body: Json = {"parent": None, "role": "user", "content": "x", "data": {}}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put_message("", "a", f"m{number}", body), range(80)))
    assert len(store.get("", "a")["messages"]) == 80


def test_a_file_of_others_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    path.write_bytes(b"This is no database. " * 100)
    with pytest.raises(RowspanError, match="ROWSPAN_CONVERSATIONS"):
        Conversations(path).listed("")


def test_our_own_export_comes_back(store: Conversations) -> None:
    store.put("", "a", {"title": "T", "settings": {"system": "Be brief.\nBe kind."}})
    say(store, "", "a", "hello", "hi")
    store.put_message(
        "", "a", "n1", {"parent": "m0", "role": "assistant", "content": "2nd", "data": {"reasoning": "r"}}
    )
    whole = store.get("", "a")
    (back,) = read_conversations(json.loads(json.dumps(to_json([whole]))))
    assert {**back, "updated": 0} == {**whole, "updated": 0}
    assert store.add("another", [back]) == 1
    assert store.get("another", "a")["messages"] == whole["messages"]
    text = to_markdown(whole)
    assert text.startswith("# T\n\n> Be brief.\n> Be kind.\n\n## User\n\nhello\n\n## Assistant\n\n<details>")
    assert "hi" not in text.split(), "only the branch that is shown"


CHATGPT = {
    "title": "Old talk",
    "create_time": 1700000000.5,
    "current_node": "3",
    "mapping": {
        "0": {"message": None, "parent": None},
        "1": {"message": {"author": {"role": "system"}, "content": {"parts": [""]}}, "parent": "0"},
        "2": {"message": {"author": {"role": "user"}, "content": {"parts": ["Hello", {"image": 1}]}}, "parent": "1"},
        "3": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["Hi"]}}, "parent": "2"},
        "4": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["Hey"]}}, "parent": "2"},
    },
}
OPEN_WEBUI = {
    "id": "w1",
    "title": "Old talk",
    "chat": {
        "history": {
            "currentId": "3",
            "messages": {
                "2": {"role": "user", "content": "Hello", "parentId": None, "timestamp": 1700000000},
                "3": {"role": "assistant", "content": "Hi", "parentId": "2", "model": "m"},
                "4": {"role": "assistant", "content": "Hey", "parentId": "2", "model": "m"},
            },
        }
    },
}


@pytest.mark.parametrize("exported", [CHATGPT, OPEN_WEBUI])
def test_exports_of_others(exported: Json) -> None:
    (found,) = read_conversations([exported, "nonsense", {"mapping": {}}])
    assert found["title"] == "Old talk"
    assert [(message["role"], message["content"]) for message in branch(found)] == [
        ("user", "Hello"),
        ("assistant", "Hi"),
    ]
    assert {message["content"] for message in found["messages"]} == {"Hello", "Hi", "Hey"}


@pytest.mark.parametrize("file", [None, [], 3, "x", {}, [{"chat": {}}], {"format": "rowspan.conversations"}])
def test_files_without_conversations_are_refused(file: Any) -> None:
    with pytest.raises(UsageError, match="no conversations"):
        read_conversations(file)


NAMES = st.sampled_from(["0", "1", "2", "3", "4", "5"])
ANY: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.floats() | st.text(max_size=3) | NAMES | st.just([]) | st.just({"a": float("nan")})
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "parent", "parentId"), NAMES | ANY),
        "role": st.sampled_from(["user", "assistant", "tool"]) | ANY,
        **dict.fromkeys(("content", "created", "data", "timestamp", "model"), ANY),
    },
)


@settings(max_examples=60)
@given(
    messages=st.lists(MESSAGE | ANY, max_size=6),
    keyed=st.booleans(),
    fields=st.dictionaries(st.sampled_from(["id", "title", "leaf", "settings", "pinned", "created"]), ANY),
)
def test_whatever_a_file_says_becomes_a_tree(messages: list[Any], keyed: bool, fields: Json) -> None:
    own = {**fields, "messages": messages}
    theirs = {**fields, "chat": {"history": {"messages": {str(n): each for n, each in enumerate(messages)}}}}
    try:
        (found,) = read_conversations(theirs if keyed else own)
    except UsageError:
        return
    by_id = {message["id"]: message for message in found["messages"]}
    assert found["leaf"] in by_id
    for message in found["messages"]:
        steps, place = 0, message
        while place["parent"] is not None:
            place, steps = by_id[place["parent"]], steps + 1
            assert steps <= len(by_id)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_text_of_a_pdf() -> None:
    stream = b"BT /F1 12 Tf 10 10 Td (Rows of one model) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    content, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF"
    assert pdf_text(content + end % (table, len(content))) == "Rows of one model"
    for broken in (b"", b"%PDF-1.4\nnonsense", content[:60]):
        with pytest.raises(UsageError):
            pdf_text(broken)
