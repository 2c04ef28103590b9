"""Pauses engines that are loaded but not measured. Idle engines do not rest: vLLM's threads poll, and OpenMP's spin;
this took up to 51 % of a processor, and two thirds of another engine's pp512.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

from rowspan.errors import EngineError

COMMAND = (sys.executable, "-P", "-m", "rowspan.bench.run.stopper")
END_SECONDS = 5.0


class Pauser:
    """Keeps process trees paused. Call `close` in the end: all resume then, and also when this process ends, whatever
    ends it. Their memory stays.
    """

    def __init__(self) -> None:
        self._stopper: subprocess.Popen[str] | None = None  # started when there is something to pause

    def hold(self, roots: Iterable[int]) -> dict[int, str]:
        """Pause these processes and all their descendants, and resume all others.

        Returns:
            The processes of which not all descendants could be paused, and why.

        Raises:
            EngineError: the program that pauses has been killed.
        """
        asked = list(roots)
        if self._stopper is None:
            if not asked:
                return {}
            # It gets a session of its own, so that Ctrl-C and Ctrl-Z in the terminal do not reach it.
            self._stopper = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        assert self._stopper.stdin is not None
        assert self._stopper.stdout is not None
        try:
            print(json.dumps(asked), file=self._stopper.stdin, flush=True)
            answer = self._stopper.stdout.readline()
            return {int(root): why for root, why in json.loads(answer).items()}
        except (OSError, ValueError):
            raise EngineError(
                "The process that pauses engines has ended.",
                why="It was killed.",
                fix="Measure again; --no-pause-others does without it.",
            ) from None

    def close(self) -> None:
        """Resume all processes."""
        if self._stopper is None:
            return
        with self._stopper as stopper:
            try:
                stopper.communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                stopper.kill()
        self._stopper = None
