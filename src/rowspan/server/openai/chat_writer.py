"""Writes answers to a conversation in OpenAI's form: messages, and changes (deltas) to them."""

from __future__ import annotations

from collections.abc import Iterable

from rowspan.backends.protocol import FinishReason, Piece, TokenText
from rowspan.server.openai.chat_format import AnswerFormat
from rowspan.server.openai.reply import Json, ServerAnswer
from rowspan.text.chat_formats.deltas import (
    BrokenCall,
    CallArguments,
    CallEnd,
    CallStart,
    Delta,
    Reasoning,
    Text,
)
from rowspan.text.chat_formats.tool_format import openai_id


class ChatWriter:
    """Writes choices as messages, and parts of choices as changes to a message."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, form: AnswerFormat, *, with_logprobs: bool) -> None:
        self._form = form
        self._with_logprobs = with_logprobs
        self._streams: dict[int, _Stream] = {}

    def whole(self, index: int, answer: ServerAnswer) -> Json:
        message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
        choice: Json = {"message": message, "logprobs": self._logprobs(answer.tokens)}
        if not self._form.is_plain:
            parser = self._form.parser()
            parsed = parsed_message([*parser.push(answer.text), *parser.finish()], self._form)
            message |= parsed
            if "tool_calls" in parsed and answer.finish == FinishReason.STOP:
                choice["finish_reason"] = "tool_calls"
        return choice

    def part(self, index: int, piece: Piece) -> Json | None:
        stream = self._streams.get(index)
        if stream is None:
            stream = self._streams[index] = _Stream(self._form)
        delta = stream.delta(piece)
        has_logprobs = self._with_logprobs and bool(piece.tokens)
        if not (delta or piece.finish or has_logprobs):
            return None
        if has_logprobs and not delta:
            delta = {"content": ""}
        if not stream.introduced:
            # The role is sent with the first content, not before it: clients take the first chunk for the first token.
            stream.introduced = True
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        choice: Json = {"delta": delta, "logprobs": self._logprobs(piece.tokens)}
        if piece.finish == FinishReason.STOP and stream.n_calls:
            choice["finish_reason"] = "tool_calls"
        return choice

    def _logprobs(self, tokens: list[TokenText] | tuple[TokenText, ...]) -> Json | None:
        if not self._with_logprobs:
            return None
        return {
            "content": [
                {
                    **_token(token.raw, token.logprob),
                    "top_logprobs": [_token(raw, logprob) for raw, logprob in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }


class _Stream:
    """One choice of a stream, so far."""

    def __init__(self, form: AnswerFormat) -> None:
        self._form = form
        self._parser = None if form.is_plain else form.parser()
        self.introduced = False
        self.n_calls = 0

    def delta(self, piece: Piece) -> Json:
        """The change that a piece makes to the message; empty if it makes none."""
        if self._parser is None:
            return {"content": piece.text} if piece.text else {}
        deltas = self._parser.push(piece.text)
        if piece.finish is not None:
            deltas += self._parser.finish()
        change: Json = {}
        for delta in deltas:
            match delta:
                case Text(text) | BrokenCall(_, text, _):
                    if text:
                        change["content"] = change.get("content", "") + text
                case Reasoning(text):
                    change["reasoning_content"] = change.get("reasoning_content", "") + text
                case CallStart(name, call_id):
                    call = _call(self._form, name, call_id, self.n_calls)
                    change.setdefault("tool_calls", []).append({"index": self.n_calls, **call})
                    self.n_calls += 1
                case CallArguments(json):
                    _add_arguments(change.setdefault("tool_calls", []), self.n_calls - 1, json)
                case CallEnd():
                    pass
        return change


def parsed_message(deltas: Iterable[Delta], form: AnswerFormat) -> Json:
    """The fields of a message that deltas make together. The text is null where there are calls only, and a call that
    does not parse is text.
    """
    text, reasoning, calls = "", "", list[Json]()
    for delta in deltas:
        match delta:
            case Text(more):
                text += more
            case Reasoning(more):
                reasoning += more
            case CallStart(name, call_id):
                calls.append(_call(form, name, call_id, len(calls)))
            case CallArguments(json):
                calls[-1]["function"]["arguments"] += json
            case BrokenCall(whole, untold, _):
                text += whole
                if whole != untold:
                    calls.pop()
            case CallEnd():
                pass
    return {
        "content": text if text or not calls else None,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _call(form: AnswerFormat, name: str, call_id: str | None, place: int) -> Json:
    new_id = form.tool_format.new_id if form.tool_format else openai_id
    return {
        "id": call_id or new_id(name, place),
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }


def _add_arguments(calls: list[Json], index: int, json: str) -> None:
    """Add a part of arguments to a call, which the same change may begin."""
    if calls and calls[-1]["index"] == index:
        calls[-1]["function"]["arguments"] += json
    else:
        calls.append({"index": index, "function": {"arguments": json}})


def _token(raw: bytes, logprob: float | None) -> Json:
    return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
