"""Data about hardware that need not be in this machine, and the readers of that data."""
