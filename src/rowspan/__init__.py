"""Rowspan: one LLM service out of all the cards, or sockets, of one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowspan.engine.llm import LLM, Answer

__all__ = ["LLM", "Answer"]


def __getattr__(name: str) -> Any:
    """Import the engine only when it is asked for: `import rowspan` is done by every command."""
    if name in __all__:
        from rowspan.engine import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'rowspan' has no attribute {name!r}")
