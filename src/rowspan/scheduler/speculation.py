"""Which tokens to guess for which requests, and what became of guesses.

A guess is checked by computing it together with the token before it: the worker chooses a token at each place, and
those after a wrong guess count for nothing. So the answer is the one without guesses, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence

from rowspan.scheduler.guess_length import Accuracy, StepTimes, best_length
from rowspan.scheduler.ngrams import NgramProposer, Ngrams
from rowspan.scheduler.request import Request


class _Followed:
    """A request that decodes: its text so far, and how good guesses were."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.text = Ngrams(tokens)
        self.accuracy = Accuracy()
        self.next: list[int] = []  # what may follow, as far as it is known


class Speculation:
    """Guesses for all requests of a scheduler.

    guessed, right: tokens so far.
    """

    def __init__(self, most: int) -> None:
        """Args: most: guesses at a time for one request."""
        self._most = most
        self._proposer = NgramProposer()
        self._followed: dict[int, _Followed] = {}
        self._times = StepTimes()
        self.guessed = self.right = 0

    def has_guesses(self, request: Request) -> bool:
        """Whether something may follow that is worth a guess: then its next step waits for the token before."""
        followed = self._followed.get(request.seq_id)
        return followed is not None and bool(followed.next)

    def guess(self, request: Request, others: int, most: int) -> list[int]:
        """Tokens to compute behind the last known one.

        Args:
            others: further tokens in the step.
            most: guesses that there is room for.
        """
        followed = self._followed.get(request.seq_id)
        if followed is None:
            return []
        length = best_length(followed.accuracy, self._times, others, min(most, len(followed.next)))
        if not length and followed.next:
            followed.accuracy.note_none()
        return followed.next[:length]

    def took(self, request: Request, guesses: Sequence[int], right: int) -> None:
        """A request's text has grown, after guesses of which so many were right."""
        limit = self._most if request.params.guesses is None else min(self._most, request.params.guesses)
        if limit < 1:
            return
        followed = self._followed.get(request.seq_id)
        if followed is None:
            followed = self._followed[request.seq_id] = _Followed(request.tokens)
        else:
            followed.text.extend(request.tokens[len(followed.text.tokens) :])
        if guesses:
            followed.accuracy.note(right, len(guesses))
            self.guessed += len(guesses)
            self.right += right
        followed.next = self._proposer.propose(followed.text, limit)
        if not best_length(followed.accuracy, self._times, 0, len(followed.next)):
            if followed.next:
                followed.accuracy.note_none()
            followed.next = []

    def ended(self, request: Request) -> None:
        """A request is over; what it said may be said again by others."""
        followed = self._followed.pop(request.seq_id, None)
        if followed is not None:
            followed.text.extend(request.tokens[len(followed.text.tokens) :])
            self._proposer.keep(followed.text)

    def note_time(self, tokens: int, seconds: float) -> None:
        """A step in which all requests decode had so many tokens, and took so long."""
        self._times.note(tokens, seconds)
