"""Tests any server's API from outside: which behaviours that clients rely on hold."""
