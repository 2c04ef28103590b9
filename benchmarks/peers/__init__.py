"""Engines to measure side by side, and what is measured."""
