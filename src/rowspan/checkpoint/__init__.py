"""Model files of any format, read lazily and without torch."""
