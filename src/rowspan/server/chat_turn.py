"""One answer to a conversation as a stream of deltas, for APIs other than OpenAI's. These turn their requests into
`ChatRequest`s, so that every API offers the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from pydantic import ValidationError

from rowspan.backends.protocol import Piece
from rowspan.server.error_replies import FieldError, explain_invalid
from rowspan.server.openai.chat import PreparedChat
from rowspan.server.openai.schema import ChatRequest
from rowspan.server.service import Pieces
from rowspan.text.chat_formats.deltas import Delta, Text


class Step(NamedTuple):
    """What a piece of the answer adds to it."""

    deltas: list[Delta]
    piece: Piece


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """A request of OpenAI's API. Raises FieldError: a field is wrong."""
    try:
        return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        message, field = explain_invalid(errors, dict(fields))
        raise FieldError(message, field=field or "") from None


async def steps(chat: PreparedChat, pieces: Pieces) -> AsyncGenerator[Step, None]:
    """Parse the answer as it comes. Closing the generator cancels it."""
    parser = None if chat.answers.is_plain else chat.answers.parser()
    async with aclosing(pieces):
        async for _, piece in pieces:
            if parser is None:
                yield Step([Text(piece.text)] if piece.text else [], piece)
                continue
            deltas = parser.push(piece.text)
            if piece.finish is not None:
                deltas += parser.finish()
            yield Step(deltas, piece)
