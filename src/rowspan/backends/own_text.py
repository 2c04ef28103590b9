"""Texts and tokens of a GGUF file by our own tokenizer and chat template, for engines that read such files.

As the native engine has them, so that a conversation becomes the same tokens whichever engine computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rowspan.errors import UnsupportedModelError
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.prompt import encode_chat
from rowspan.text.tokenizer import Tokenizer

SHORT = 500  # characters


async def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """A long text in a thread, that other answers go on meanwhile; its start and end take longer than a short one."""
    return tokenizer.encode(text) if len(text) <= SHORT else await asyncio.to_thread(tokenizer.encode, text)


class OwnText:
    """One model's."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """
        Raises:
            UnsupportedModelError: a tokenizer or template that Rowspan does not know.
        """
        self.tokenizer = Tokenizer.from_metadata(metadata)
        self._template = ChatTemplate.from_metadata(metadata, self.tokenizer)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> OwnText | None:
        """None where Rowspan does not know the tokenizer or the template."""
        try:
            return cls(metadata)
        except UnsupportedModelError:
            return None

    async def encode(self, text: str) -> list[int]:
        return await encode(self.tokenizer, text)

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return await asyncio.to_thread(encode_chat, self._template, self.tokenizer, messages)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special=False, continuation=True)
