"""Converts between texts and tokens of a GGUF file by Rowspan's own tokenizer and chat template, so that a conversation
becomes the same tokens whichever engine computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.errors import UnsupportedModelError
from rowspan.scheduler.limits import check_least_length
from rowspan.text.chat_template import ChatTemplate
from rowspan.text.encoding import SHORT
from rowspan.text.prompt import render_chat, tokenizer_and_template
from rowspan.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class OwnText:
    """Tokenizer and chat template of one model."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> OwnText | None:
        """Read both from a model's metadata; None if Rowspan does not know the tokenizer or the template."""
        try:
            return cls(*tokenizer_and_template(metadata))
        except UnsupportedModelError:
            return None

    async def encode(self, text: str, context_size: int | None) -> list[int]:
        """Token ids of a text. A long text is encoded in a thread, so that other answers go on meanwhile; for a short
        one, starting the thread would take longer.

        Args:
            context_size: most tokens that a prompt may have; None: unknown.

        Raises:
            ContextOverflowError: the text is so long that it need not even be encoded.
        """
        if len(text) <= SHORT:
            return self.tokenizer.encode(text)
        return await asyncio.to_thread(self._encode, text, context_size)

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], context_size: int | None, **options: Any
    ) -> list[int]:
        """Token ids of a conversation. Raises the same as `encode` and `rowspan.text.prompt.encode_chat`."""

        def rendered() -> list[int]:
            return self._encode(render_chat(self.template, messages, **options), context_size)

        return await asyncio.to_thread(rendered)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special=False, continuation=True)

    async def decode_beside(self, tokens: Sequence[int]) -> str:
        """Like `decode`; a thread does it where others would wait for it."""
        return self.decode(tokens) if len(tokens) <= SHORT else await asyncio.to_thread(self.decode, tokens)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Spellings of the tokens at the beginning and the end of a text, as far as the model has them."""
        ids = {"bos_token": self.tokenizer.bos_id, "eos_token": self.tokenizer.eos_id}
        return {name: self.decode([token]) for name, token in ids.items() if token is not None}

    def _encode(self, text: str, context_size: int | None) -> list[int]:
        if context_size is not None:
            check_least_length(self.tokenizer.least_tokens(text), context_size)
        return self.tokenizer.encode(text)
