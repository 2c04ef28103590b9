"""A crash in a child is a failure here, and the next call has a child again."""

from __future__ import annotations

import os

import pytest
from kit.child_pool import ChildPool


def test_a_crash_is_a_failure_and_the_next_child_works() -> None:
    pool = ChildPool()
    try:
        with pytest.raises(AssertionError, match="abort"):
            pool.call(os.abort)
        with pytest.raises(ValueError, match="nonsense"):
            pool.call(int, "nonsense")
        assert pool.call(os.getpid) not in (os.getpid(), 0)
    finally:
        pool.close()
