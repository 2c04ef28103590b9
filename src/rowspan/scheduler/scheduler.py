"""Token-budget continuous batching: decides which tokens of which requests the next step computes.

There is no prefill or decode phase. A request has `computed` of its `len(tokens)` known tokens in the cache and is
catching up; when it has caught up, a token is sampled, and it is one behind again.

All requests form one queue in order of arrival, or of priority where they have one. Its first part is running (owns
cache blocks), the rest is waiting, and the border moves both ways: admission takes the first of the waiting, preemption
gives back the last of the running. So no request is ever overtaken by one of its priority, the oldest always gets what
it needs, and every request finishes.

Where workers can, decoding is planned one step ahead: the plan says "the token that the step before chooses". If that
one ends its request, the step ahead has computed one row for nothing, and its result is dropped. The row was written
behind what any block was committed for, and whoever gets the block next writes it in a later step.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowspan.errors import UsageError
from rowspan.kernels.sampling import NOT_FINITE
from rowspan.kvcache.manager import CacheManager
from rowspan.scheduler.batch import SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.draft import PlanDraft, PlannedPart
from rowspan.scheduler.limits import check_lengths, check_text_length
from rowspan.scheduler.request import FinishReason, Request, WantedStates
from rowspan.scheduler.speculation import Speculation
from rowspan.scheduler.step_size import StepSize


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot of the scheduler. The last six are totals since the start."""

    running: int  # requests that own cache blocks
    waiting: int  # requests that do not
    blocks_total: int  # here and below: of all groups of layers together
    blocks_used: int  # owned by a running request
    blocks_cached: int  # not owned, content still reusable
    prompt_tokens: int  # of admitted requests
    prefix_hits: int  # those of them that were found in the cache
    generated_tokens: int
    preemptions: int
    guessed_tokens: int = 0
    right_guesses: int = 0


class Scheduler:
    """Plans steps and takes in their results. Several plans may be in flight. A request may be part of several of them
    while its prompt is computed, and when steps are planned ahead; otherwise each of its tokens waits for the one
    before.
    """

    def __init__(
        self,
        cache: CacheManager,
        *,
        max_sequences: int,
        token_budget: int,
        context_length: int,
        prefix_reuse: bool = True,
        depth: int = 1,
        ahead: bool = False,
        whole_texts: bool = False,
        guesses: int = 0,
    ) -> None:
        """
        Args:
            cache: what this scheduler owns.
            max_sequences: requests that may run at the same time.
            token_budget: tokens computed in one step at most.
            context_length: tokens of prompt and answer together at most; no more than the cache holds in any case.
            prefix_reuse: let requests share the cache entries of equal beginnings.
            depth: steps under way at the same time, one in each stage of a pipeline. Requests that decode are dealt out
                to so many steps, or all stages but one would be idle.
            ahead: plan a step while the one before is under way, for workers that know what LATEST is. Not for
                pipelines, whose stages are busy with the steps of others meanwhile.
            whole_texts: a prompt is computed in one step, whose tokens see each other.
            guesses: tokens guessed at a time at most, for each request that decodes; 0: none.

        Raises:
            UsageError: the limits contradict each other.
        """
        least = max_sequences + cache.block_size
        if max_sequences < 1 or token_budget < least:
            # A prompt advances by whole blocks, and must be able to while all the others decode.
            raise UsageError(
                f"A step of {token_budget} tokens is too small for {max_sequences} parallel requests.",
                why=f"It takes a token of each and one cache block of {cache.block_size} tokens, {least} in all.",
                fix=f"Allow at least one parallel request and at least {least} tokens a step.",
            )
        self._context_limit = context_length
        self._use(cache)
        self._max_sequences = max_sequences
        self._step_size = StepSize(token_budget, least)
        self._prefix_reuse = prefix_reuse
        self._depth = depth
        self._ahead = ahead
        self._whole_texts = whole_texts
        self._speculation = Speculation(guesses) if guesses else None
        self._requests: dict[int, Request] = {}  # running and waiting
        self._running: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[int, list[PlannedPart]] = {}  # by the plan's number
        self._forget: list[int] = []  # introduced to the workers, ended since
        self._next_number = 0
        self._prompt_tokens = self._prefix_hits = self._generated_tokens = self._preemptions = 0

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ContextOverflowError: its prompt leaves no room for an answer, where it asks for one.
            UsageError: its prompt is empty, or it asks for nothing at all.
            ValueError: its seq_id is in use.
        """
        if request.seq_id in self._requests:
            raise ValueError(f"sequence {request.seq_id} is not finished")
        if request.states is None:
            check_lengths(len(request.tokens), request.params.max_tokens, self.context_length)
        else:
            check_text_length(len(request.tokens), self.context_length)
        self._requests[request.seq_id] = request
        urgent = (number for number, other in enumerate(reversed(self._waiting)) if not request.precedes(other))
        self._waiting.insert(len(self._waiting) - next(urgent, len(self._waiting)), request)

    def step(self) -> StepPlan | None:
        """Plan the next forward pass; None when there is nothing to compute until a result or a request arrives."""
        draft = PlanDraft(self._step_size.tokens, self._cache)
        if self._ahead and self._in_flight:
            self._plan_ahead(draft)
        else:
            self._plan_decodes(draft)
            self._plan_prefills(draft)
            self._admit(draft)
        if not draft.chunks:
            return None
        if draft.budget < self._cache.block_size:
            self._step_size.take_full_step()
        plan = StepPlan(self._next_number, tuple(draft.chunks), tuple(draft.new), tuple(self._forget))
        self._next_number += 1
        self._in_flight[plan.number] = draft.planned
        self._forget = []
        return plan

    def finish_step(self, result: StepResult) -> list[TokenEvent]:
        """Take in what a step computed. The events come in the order of the plan's chunks; a request that finishes
        has lost its blocks when this returns. Results of cancelled requests and of aborted steps are dropped."""
        sampled: defaultdict[int, list[SampledToken]] = defaultdict(list)
        for token in result.sampled:
            sampled[token.seq_id].append(token)
        hidden = dict(result.hidden)
        events = list[TokenEvent]()
        for request, end, samples, guesses in self._in_flight.pop(result.number, ()):
            if self._requests.get(request.seq_id) is not request:
                continue  # cancelled; its blocks may hold another sequence by now, so they must not be committed
            right = max(0, len(sampled[request.seq_id]) - 1) if guesses else 0
            begin, end = end - samples + 1, end - (len(guesses) - right)  # of sampled tokens, and of what is true
            if self._prefix_reuse:
                tokens = [*request.tokens, *guesses[:right]] if guesses else request.tokens
                self._cache.commit(tokens, request.block_hashes, request.tables, request.computed, end)
            request.computed = end
            if guesses:
                request.guesses = request.guesses[0] + len(guesses), request.guesses[1] + right
                request.planned = end  # what was wrong is computed again, in the same places
            self._cache.advance(request.tables, end, len(request.tokens))
            if request.states is not None:
                events += self._take_states(request, hidden.get(request.seq_id))
            assert bool(samples) == (request.seq_id in sampled), "a worker says what it was asked for"
            for position, token in enumerate(sampled[request.seq_id], start=begin):
                if request.is_scored and position < request.prompt_length:
                    request.told_scores.append(token)
                if position == len(request.tokens) or token.token == NOT_FINITE:  # else it is known what follows there
                    events.append(self._append(request, token))
                    if events[-1].finish is not None:
                        break
            if self._speculation is not None and samples and request.seq_id in self._requests:
                self._speculation.took(request, guesses, right)
        return events

    def note_time(self, plan: StepPlan, seconds: float) -> None:
        """Say how long a step took, if nothing else was under way meanwhile: guesses are made if they pay."""
        if self._speculation is not None and all(len(chunk.tokens) == chunk.samples for chunk in plan.chunks):
            self._speculation.note_time(sum(chunk.samples for chunk in plan.chunks), seconds)

    def cancel(self, seq_id: int) -> bool:
        """Drop a request and free its blocks at once, even in the middle of a step: the workers run plans in order,
        so a freed block is only overwritten after that step. False if there is no such request (any more)."""
        request = self._requests.get(seq_id)
        if request is None:
            return False
        if request.tables:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        self._end(request)
        return True

    @property
    def running(self) -> int:
        """Number of requests that own cache blocks."""
        return len(self._running)

    def abandon_steps(self) -> None:
        """Take back all steps under way, whose results will never come: every running request waits again, in its
        place, and is computed anew. The cache's content is lost."""
        while self._running:
            self._preempt(self._running[-1])
        self._in_flight.clear()
        self._cache.clear()

    @property
    def step_tokens(self) -> int:
        """The token budget of a step at present."""
        return self._step_size.tokens

    def shrink_steps(self) -> None:
        """Halve the token budget from now on, down to its minimum, until a larger one is worth a try."""
        self._step_size.shrink()

    def resize(self, n_blocks: int) -> list[int]:
        """Use a new cache, while no request is running.

        Returns:
            The ids of requests that it is too small for; they are dropped.
        """
        assert not self._running, "running requests would lose what they have computed"
        self._use(CacheManager(self._cache.layout, n_blocks))
        least = [(request.seq_id, len(request.tokens) + (request.states is None)) for request in self._waiting]
        too_long = [seq_id for seq_id, positions in least if positions > self.context_length]
        for seq_id in too_long:
            self.cancel(seq_id)
        return too_long

    def abort_all(self) -> list[int]:
        """Drop every request and the cache's content, because the workers lost it and know no sequence any more.

        Returns:
            The dropped requests' ids, in order of arrival.
        """
        aborted = list(self._requests)
        self._requests.clear()
        self._running.clear()
        self._waiting.clear()
        self._in_flight.clear()
        self._forget.clear()
        self._cache.clear()
        return aborted

    def stats(self) -> SchedulerStats:
        """Figures on the present load, and totals so far."""
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_total=self._cache.n_blocks,
            blocks_used=self._cache.used_blocks,
            blocks_cached=self._cache.reusable_blocks,
            prompt_tokens=self._prompt_tokens,
            prefix_hits=self._prefix_hits,
            generated_tokens=self._generated_tokens,
            preemptions=self._preemptions,
            guessed_tokens=self._speculation.guessed if self._speculation else 0,
            right_guesses=self._speculation.right if self._speculation else 0,
        )

    def _use(self, cache: CacheManager) -> None:
        self._cache = cache
        longest = cache.longest
        self.context_length = self._context_limit if longest is None else min(self._context_limit, longest)

    def _plan_decodes(self, draft: PlanDraft) -> None:
        """Plan the requests that miss one token; for a pipeline stage, its share of all decoding requests."""
        decoding = sum(len(request.tokens) - request.computed == 1 for request in self._running)
        share = -(-decoding // self._depth)
        for request in self._running:  # preemption shortens this list at its end, never up to the current request
            if len(draft.chunks) == share:
                return
            if request.missing > 1:  # its blocks behind a window may have gone to others, who are not under way yet
                self._grow(request, self._chunk_end(request.planned, request, _room(draft, request)))
            elif request.missing == 1 and self._grow(request, len(request.tokens)):
                draft.add(request, len(request.tokens), self._guess(request, draft, decoding))

    def _guess(self, request: Request, draft: PlanDraft, decoding: int) -> list[int]:
        """Tokens to compute behind a request's last one; none that other requests would have to make room for."""
        if self._speculation is None or request.states is not None or request.is_scored:
            return []
        known = len(request.tokens)
        left = min(request.prompt_length + request.params.max_tokens, self.context_length) - known - 1
        room = draft.budget - (decoding - len(draft.chunks))
        guesses = self._speculation.guess(request, max(0, decoding - 1), min(left, room))
        if guesses and not self._cache.grow(request.tables, known + len(guesses)):
            return []
        return guesses

    def _plan_ahead(self, draft: PlanDraft) -> None:
        """Plan the step after the one under way, if all decode in it who are not at their end by then.

        Else it waits for the result. Who was left behind would keep to steps of its own, for which the weights are read
        once more: what some logits processors need is known only then. A prompt's chunk takes so long that the round
        trip does not matter, and whoever arrives meanwhile would wait for it.
        """
        if len(self._in_flight) > 1 or (self._waiting and self._has_room()):
            return
        if any(request.missing for request in self._running):
            return
        going_on = [request for request in self._running if not self._is_complete(request, request.planned + 1)]
        if any(request.needs_last_token for request in going_on):
            return
        if self._speculation is not None and any(map(self._speculation.has_guesses, going_on)):
            return
        if all(self._grow(request, request.planned + 1) for request in going_on):
            for request in going_on:
                draft.add(request, request.planned + 1)

    def _plan_prefills(self, draft: PlanDraft) -> None:
        """Plan chunks of the requests that miss more tokens, as far as the budget lasts."""
        for request in self._running:
            if request.missing > 1:
                end = self._chunk_end(request.planned, request, _room(draft, request))
                if end > request.planned and self._grow(request, end):
                    draft.add(request, end)

    def _admit(self, draft: PlanDraft) -> None:
        """Let waiting requests run, in order, while the budget and the blocks last."""
        while self._waiting and self._has_room():
            request = self._waiting[0]
            if not draft.budget:
                return
            cache = self._cache
            # A cache has neither hidden states nor logits.
            reuse = self._prefix_reuse and request.states is not WantedStates.ALL and not request.is_scored
            tables = cache.match(request.tokens, request.block_hashes) if reuse else cache.nothing()
            start = cache.positions(tables)
            end = self._chunk_end(start, request, _room(draft, request))
            if self._whole_texts and end < len(request.tokens):
                if draft.chunks:
                    return
                end = len(request.tokens)  # however small steps have become
            if end <= start:
                return
            # All blocks of what is known, so that only decoding can run out of them; and one spare for each that
            # runs, or what is admitted now, or was preempted just now, would be preempted again in a moment.
            if not cache.admit(tables, len(request.tokens), spare=len(self._running)):
                return
            self._running.append(self._waiting.popleft())
            request.tables = tables
            request.computed = request.planned = start
            if not request.preemptions:
                request.cached = start
                self._prompt_tokens += len(request.tokens)
                self._prefix_hits += start
            draft.add(request, end)

    def _has_room(self) -> bool:
        """For one more request to run."""
        return len(self._running) < min(self._max_sequences, self._cache.free_blocks)

    def _chunk_end(self, start: int, request: Request, budget: int) -> int:
        """The end of a chunk that begins at `start`: the last known token, or else a block border, so that a prompt is
        cut at the same places whatever shares its steps, and is always resumed at a border.
        """
        end = start + budget
        known = len(request.tokens)
        return known if end >= known else end - end % self._cache.block_size

    def _grow(self, request: Request, end: int) -> bool:
        """See that there are blocks for positions up to `end`; preempt the youngest if need be.

        False if even that does not help now, because the youngest is in flight, or is this request itself. Then it
        waits with what it has: the older ones finish some day, or take its blocks.
        """
        while not self._cache.grow(request.tables, end):
            youngest = self._running[-1]
            if youngest is request or youngest.in_flight:
                return False
            self._preempt(youngest)
        return True

    def _preempt(self, youngest: Request) -> None:
        self._running.pop()
        self._waiting.appendleft(youngest)
        self._strip(youngest)
        youngest.preemptions += 1
        self._preemptions += 1

    def _append(self, request: Request, sampled: SampledToken) -> TokenEvent:
        """Append a sampled token, and end the request if it was the last one, or none."""
        prompt, request.told_scores = tuple(request.told_scores), []
        if sampled.token != NOT_FINITE:
            request.tokens.append(sampled.token)
            self._generated_tokens += 1
        finish = self._finish_after(request, sampled.token)
        if finish is not None:
            self._running.remove(request)
            self._end(request)
        guesses = request.guesses if finish is not None else (0, 0)
        return TokenEvent(request.seq_id, sampled, finish, request.cached, prompt=prompt, guesses=guesses)

    def _finish_after(self, request: Request, token: int) -> FinishReason | None:
        if token == NOT_FINITE:
            return FinishReason.ERROR
        if token in request.params.stop_tokens and not request.params.ignore_eos:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._is_complete(request, len(request.tokens)) else None

    def _take_states(self, request: Request, rows: NDArray[np.float32] | None) -> list[TokenEvent]:
        """Keep hidden states of a part of a text, and end the request if it was the last one."""
        if rows is not None:
            request.told_states.append(rows)
        if request.computed < len(request.tokens):
            return []
        states = np.concatenate(request.told_states)
        finish = FinishReason.STOP if np.isfinite(states).all() else FinishReason.ERROR
        event = TokenEvent(request.seq_id, None, finish, request.cached, hidden=states)
        self._running.remove(request)
        self._end(request)
        return [event]

    def _is_complete(self, request: Request, tokens: int) -> bool:
        """Whether a request gets no more tokens once it has so many."""
        return tokens - request.prompt_length >= request.params.max_tokens or tokens >= self.context_length

    def _end(self, request: Request) -> None:
        if self._speculation is not None:
            self._speculation.ended(request)
        del self._requests[request.seq_id]
        self._strip(request)

    def _strip(self, request: Request) -> None:
        """Take a request's blocks away, and its place in the workers' memory."""
        if request.tables:
            self._cache.release(request.tables)
        request.tables = ()
        request.computed = request.planned = 0
        request.told_states.clear()
        request.told_scores.clear()
        if request.introduced:
            request.introduced = False
            self._forget.append(request.seq_id)


def _room(draft: PlanDraft, request: Request) -> int:
    """Tokens of a prompt that a step may still have."""
    return min(draft.budget, draft.scored) if request.is_scored else draft.budget
