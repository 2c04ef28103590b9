"""The page on the tests names every file of the kit, and no other."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_the_page_names_the_kit() -> None:
    _, kit = (TESTS / "README.md").read_text("utf-8").split("## The kit")
    named = re.findall(r"^\| `(\w+\.py)` \|", kit, re.MULTILINE)
    assert sorted(named) == sorted(file.name for file in (TESTS / "kit").glob("*.py"))
