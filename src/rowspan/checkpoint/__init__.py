"""Reads model files of any format lazily and without torch."""
