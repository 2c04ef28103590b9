"""Says what a file is that was taken for a model file: people meet the same few mistakes again and again."""

from __future__ import annotations

import re
from typing import NamedTuple

ENOUGH_BYTES = 512  # of a file's beginning, to tell by

_CONVERT = "Choose a GGUF file of this model, or convert this one with llama.cpp's convert_hf_to_gguf.py."


class Mistaken(NamedTuple):
    """What a file is instead, as a sentence, and what to do about it."""

    why: str
    fix: str


# Beginnings by which other kinds of files are recognized; the first that fits counts.
_KINDS = (
    (
        rb"version https://git-lfs",
        Mistaken(
            "It is a pointer of Git LFS, which stands for the file in a repository that was cloned without it.",
            "Run `git lfs pull` in the folder, or fetch the file with `rowspan pull`.",
        ),
    ),
    (
        rb"(?i)\s*(<!doctype html|<html|<head)",
        Mistaken(
            "It is a web page.",
            "Fetch the file itself: on huggingface.co its address has /resolve/ where the page's has /blob/.",
        ),
    ),
    (
        rb"\s*<\?xml",
        Mistaken("It is XML, as storage servers send it with an error in it.", "Open it in an editor: it says why."),
    ),
    (
        rb'\s*\{\s*"',
        Mistaken("It is JSON: a configuration, or a server's error.", "Give the path or address of a .gguf file."),
    ),
    (
        rb"(?s).{8}\{",
        Mistaken("It holds safetensors, the weights of a Hugging Face model.", _CONVERT),
    ),
    (rb"PK\x03\x04|\x80\x02", Mistaken("It is a zip or pickle file, such as PyTorch's weights.", _CONVERT)),
    (
        rb"lmgg|fmgg|tjgg|algg|ggml|ggmf|ggjt|ggla",
        Mistaken("It has a format that llama.cpp gave up in 2023.", "Choose a current conversion of this model."),
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", Mistaken("It is a compressed file.", "Unpack it.")),
    (
        rb"\x00{64}",
        Mistaken(
            "It begins with zeros, as a download does that reserved its room and never ended.", "Fetch the file again."
        ),
    ),
)
_UNKNOWN = Mistaken(
    "It does not begin with GGUF's four letters: it is something else, or a later piece of a file that was cut up.",
    "Give the path of a .gguf file; pieces named like NAME.gguf.part1of2 belong behind each other (`cat`).",
)


def mistaken(start: bytes) -> Mistaken:
    """What a file is that is no GGUF file, judged by its first `ENOUGH_BYTES`."""
    return next((what for pattern, what in _KINDS if re.match(pattern, start)), _UNKNOWN)
