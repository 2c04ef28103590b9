"""Routes for conversations and preferences, below /console/api."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rowspan.console.conversations import Conversations
from rowspan.console.exchange import read_conversations, to_json, to_markdown
from rowspan.errors import UsageError

Json = dict[str, Any]
Name = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
OWNER = "rowspan.owner"  # where a request's scope has its key's digest, if keys are used


class ConversationChange(BaseModel):
    model_config = ConfigDict(strict=True)

    title: Annotated[str, Field(max_length=200)] | None = None
    pinned: bool | None = None
    settings: Json | None = None
    leaf: Annotated[str, Field(max_length=64)] | None = None


class MessageBody(BaseModel):
    model_config = ConfigDict(strict=True)

    parent: Annotated[str, Field(max_length=64)] | None = None
    role: Literal["user", "assistant"]
    content: str
    data: Json = {}


class Preference(BaseModel):
    value: Any


def conversation_routes(conversations: Conversations) -> APIRouter:
    """These are plain functions: they run on a thread, since they wait for the disk."""
    router = APIRouter(prefix="/console/api", include_in_schema=False)

    @router.get("/conversations")
    def list_conversations(http: Request, search: Annotated[str, Query(max_length=200)] = "") -> Json:
        return {"conversations": conversations.listed(owner_of(http), search.strip())}

    @router.get("/conversations/{conversation}")
    def get_conversation(http: Request, conversation: Name) -> Json:
        return conversations.get(owner_of(http), conversation)

    @router.put("/conversations/{conversation}")
    def put_conversation(http: Request, conversation: Name, change: ConversationChange) -> Json:
        conversations.put(owner_of(http), conversation, change.model_dump(exclude_unset=True, exclude_none=True))
        return {}

    @router.put("/conversations/{conversation}/messages/{message}")
    def put_message(http: Request, conversation: Name, message: Name, body: MessageBody) -> Json:
        conversations.put_message(owner_of(http), conversation, message, body.model_dump())
        return {}

    @router.delete("/conversations/{conversation}")
    def delete_conversation(http: Request, conversation: Name) -> Json:
        conversations.delete(owner_of(http), conversation)
        return {}

    @router.get("/conversations/{conversation}/export")
    def export_one(http: Request, conversation: Name, form: Literal["md", "json"] = "md") -> Response:
        found = conversations.get(owner_of(http), conversation)
        if form == "md":
            return _download(to_markdown(found), "text/markdown; charset=utf-8", "conversation.md")
        return _download(json.dumps(to_json([found]), ensure_ascii=False), "application/json", "conversation.json")

    @router.get("/export")
    def export_all(http: Request) -> Response:
        owner = owner_of(http)
        all_of_them = [conversations.get(owner, one["id"]) for one in conversations.listed(owner)]
        return _download(json.dumps(to_json(all_of_them), ensure_ascii=False), "application/json", "conversations.json")

    @router.post("/import")
    def import_file(http: Request, file: Annotated[Any, Body()]) -> Json:
        return {"imported": conversations.add(owner_of(http), read_conversations(file))}

    @router.get("/preferences")
    def get_preferences(http: Request) -> Json:
        return conversations.preferences(owner_of(http))

    @router.put("/preferences/{name}")
    def put_preference(http: Request, name: Name, preference: Preference) -> Json:
        if len(json.dumps(preference.value)) > 1 << 20:
            raise UsageError("This preference is larger than a megabyte.", fix="Keep less in it.")
        conversations.prefer(owner_of(http), name, preference.value)
        return {}

    return router


def owner_of(http: Request) -> str:
    """Whose conversations a request is about: its key's digest, or "" where no keys are used."""
    return str(http.scope.get(OWNER, ""))


def _download(text: str, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return Response(text, media_type=media_type, headers=headers)
