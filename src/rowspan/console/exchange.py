"""Conversations as files: ours as Markdown and JSON; and those that ChatGPT and Open WebUI export, to be imported.

Whatever a file says is checked here: what comes out has the fields of `Conversations.get`, and a tree that is one.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from rowspan.errors import UsageError

Json = dict[str, Any]
FORMAT = "rowspan.conversations"  # names the format of our own exports
ROLES = ("user", "assistant", "system")
MOST_MESSAGES = 20_000  # of one conversation


def branch(conversation: Mapping[str, Any]) -> list[Json]:
    """The messages from the first to the one that is shown last."""
    by_id = {message["id"]: message for message in conversation["messages"]}
    found: list[Json] = []
    place = conversation["leaf"]
    while place in by_id and len(found) <= len(by_id):
        found.append(by_id[place])
        place = by_id[place]["parent"]
    return found[::-1]


def to_markdown(conversation: Mapping[str, Any]) -> str:
    """The branch that is shown, as Markdown."""
    parts = [f"# {conversation['title'] or 'Conversation'}"]
    if system := conversation["settings"].get("system"):
        parts.append(f"> {system}".replace("\n", "\n> "))
    for message in branch(conversation):
        model = message["data"].get("model")
        parts.append(f"## {message['role'].capitalize()}{f' ({model})' if model else ''}")
        if reasoning := message["data"].get("reasoning"):
            parts.append(f"<details><summary>Reasoning</summary>\n\n{reasoning}\n\n</details>")
        parts.append(message["content"])
    return "\n\n".join(parts) + "\n"


def to_json(conversations: Iterable[Mapping[str, Any]]) -> Json:
    return {"format": FORMAT, "version": 1, "conversations": list(conversations)}


def read_conversations(file: Any) -> list[Json]:
    """The conversations of a parsed JSON file: our own export, ChatGPT's conversations.json, or Open WebUI's.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(file, dict) and file.get("format") == FORMAT:
        file = file.get("conversations")
    entries = file if isinstance(file, list) else [file]
    read = [_read(entry) for entry in entries if isinstance(entry, dict)]
    found = [one for one in read if one is not None]
    if not found:
        raise UsageError(
            "There are no conversations in this file.",
            fix="Choose a JSON file that Rowspan, ChatGPT (conversations.json) or Open WebUI has exported.",
        )
    return found


def _read(entry: Json) -> Json | None:
    if isinstance(entry.get("mapping"), dict):
        return _whole(entry, _chatgpt_messages(entry["mapping"]), entry.get("current_node"))
    chat = entry.get("chat")
    if isinstance(chat, dict):
        history = chat.get("history")
        known = history.get("messages") if isinstance(history, dict) else None
        if isinstance(known, dict):
            messages = [_open_webui_message(key, one) for key, one in known.items() if isinstance(one, dict)]
            return _whole({**entry, **chat}, messages, history.get("currentId") if isinstance(history, dict) else None)
        return None
    if isinstance(entry.get("messages"), list):
        own = [message for message in entry["messages"] if isinstance(message, dict)]
        return _whole(entry, [_own_message(message) for message in own], entry.get("leaf"))
    return None


def _chatgpt_messages(mapping: Mapping[str, Any]) -> list[Json]:
    messages = []
    for key, node in mapping.items():
        said = node.get("message") if isinstance(node, dict) else None
        if not isinstance(said, dict):
            messages.append(_message(key, node.get("parent") if isinstance(node, dict) else None, "", "", None))
            continue
        content, author = said.get("content"), said.get("author")
        parts = content.get("parts") if isinstance(content, dict) else None
        text = "\n\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
        role = author.get("role") if isinstance(author, dict) else ""
        messages.append(_message(key, node.get("parent"), role if text else "", text, said.get("create_time")))
    return messages


def _open_webui_message(key: str, message: Json) -> Json:
    data = {"model": message["model"]} if isinstance(message.get("model"), str) else {}
    said = (message.get("role"), message.get("content"), message.get("timestamp"))
    return _message(key, message.get("parentId"), *said, data)


def _own_message(message: Json) -> Json:
    said = (message.get("role"), message.get("content"), message.get("created"))
    return _message(message.get("id"), message.get("parent"), *said, _plain(message.get("data")))


def _message(key: Any, parent: Any, role: Any, content: Any, created: Any, data: Json | None = None) -> Json:
    return {
        "id": str(key),
        "parent": None if parent is None else str(parent),
        "role": role,
        "content": content if isinstance(content, str) else "",
        "data": data or {},
        "created": _seconds(created),
    }


def _whole(entry: Json, messages: list[Json], leaf: Any) -> Json | None:
    """A conversation of messages, some of which only hold others together and are left out."""
    if len(messages) > MOST_MESSAGES:
        raise UsageError(f"A conversation has {len(messages)} messages; at most {MOST_MESSAGES} are read.")
    by_id = {message["id"]: message for message in messages}

    def shown(place: str | None) -> str | None:
        """The message itself, or the nearest one above it that is shown; None at the top, and where the file's messages
        go round in circles."""
        seen: set[str] = set()
        while place is not None and place in by_id and place not in seen:
            if by_id[place]["role"] in ROLES:
                return place
            seen.add(place)
            place = by_id[place]["parent"]
        return None

    kept = [{**message, "parent": shown(message["parent"])} for message in messages if message["role"] in ROLES]
    if not kept:
        return None
    rooted = _without_circles(kept)
    last = shown(None if leaf is None else str(leaf)) or rooted[-1]["id"]
    title, settings, own_id = entry.get("title"), entry.get("settings"), entry.get("id")
    created = _seconds(entry.get("created", entry.get("create_time", entry.get("created_at"))))
    updated = _seconds(entry.get("updated", entry.get("update_time", entry.get("updated_at"))))
    return {
        "id": own_id if isinstance(own_id, str) and 0 < len(own_id) <= 64 else uuid.uuid4().hex,
        "title": title[:200] if isinstance(title, str) else "",
        "pinned": int(bool(entry.get("pinned"))),
        "settings": _plain(settings),
        "leaf": last,
        "created": created,
        "updated": updated,
        "messages": rooted,
    }


def _without_circles(messages: list[Json]) -> list[Json]:
    """Messages whose parents lead to a first one; where they lead round, or nowhere, the message becomes a first
    one."""
    by_id = {message["id"]: message for message in messages}
    sound: set[str] = set()
    for message in messages:
        path, place = [], message
        while place["id"] not in sound:
            path.append(place["id"])
            sound.add(place["id"])
            parent = place["parent"]
            if parent not in by_id or parent in path:
                place["parent"] = None
                break
            place = by_id[parent]
    return messages


def _plain(value: Any) -> Json:
    """An object that can be JSON again; {} for anything else. Python reads NaN from files, but browsers do not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(value: Any) -> float:
    """A time in seconds since 1970; now, if it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e11:
        return float(value)
    return time.time()
