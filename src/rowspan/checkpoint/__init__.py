"""Model files of any format, read lazily and without torch."""

from rowspan.checkpoint.open import open_checkpoint

__all__ = ["open_checkpoint"]
