"""Model files of any format, read lazily and without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowspan.checkpoint.open import open_checkpoint

__all__ = ["open_checkpoint"]


def __getattr__(name: str) -> Any:
    """`open_checkpoint`, imported when first used: it needs numpy, which planning by names and shapes does not."""
    if name == "open_checkpoint":
        from rowspan.checkpoint.open import open_checkpoint

        return open_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
