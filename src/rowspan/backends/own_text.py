"""Texts and tokens of a GGUF file by our own tokenizer and chat template: a conversation becomes the same tokens
whichever engine computes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.errors import UnsupportedModelError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.prompt import encode_chat, tokenizer_and_template
from rowspan.text.tokenizer import Tokenizer

SHORT = 500  # characters


@dataclass(frozen=True)
class OwnText:
    """One model's."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> OwnText | None:
        """None where Rowspan does not know the tokenizer or the template."""
        try:
            return cls(*tokenizer_and_template(metadata))
        except UnsupportedModelError:
            return None

    async def encode(self, text: str) -> list[int]:
        """A long text in a thread, that other answers go on meanwhile; to start one takes longer than a short text."""
        encode = self.tokenizer.encode
        return encode(text) if len(text) <= SHORT else await asyncio.to_thread(encode, text)

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return await asyncio.to_thread(encode_chat, self.template, self.tokenizer, messages)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special=False, continuation=True)
