"""Token-budget continuous batching: decides which tokens of which requests the next step computes.

There is no prefill or decode phase. A request has `computed` of its `len(tokens)` known tokens in the cache and is
catching up; when it has caught up, a token is sampled, and it is one behind again.

All requests form one queue in order of arrival. Its first part is running (owns cache blocks), the rest is waiting, and
the border moves both ways: admission takes the first of the waiting, preemption gives back the last of the running.
So no request is ever overtaken, the oldest always gets what it needs, and every request finishes.

Where workers can, decoding is planned one step ahead: the plan says "the token that the step before chooses". If that
one ends its request, the step ahead has computed one row for nothing, and its result is dropped. The row was written
behind what any block was committed for, and whoever gets the block next writes it in a later step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rowspan.errors import ContextOverflowError, UsageError
from rowspan.kvcache.blocks import BlockManager
from rowspan.scheduler.batch import LATEST, Chunk, NewSequence, SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.request import FinishReason, Request, block_table
from rowspan.scheduler.step_size import StepSize


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot. The last four are totals since the start."""

    running: int  # requests that own cache blocks
    waiting: int  # requests that do not
    blocks_total: int
    blocks_used: int  # owned by a running request
    blocks_cached: int  # not owned, content still reusable
    prompt_tokens: int  # of admitted requests
    prefix_hits: int  # those of them that were found in the cache
    generated_tokens: int
    preemptions: int


class Scheduler:
    """Plans steps and digests their results. Several plans may be in flight. A request is part of several of them with
    its prompt, and where steps are planned ahead; else each of its tokens waits for the one before."""

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_sequences: int,
        token_budget: int,
        context_length: int,
        prefix_reuse: bool = True,
        depth: int = 1,
        ahead: bool = False,
    ) -> None:
        """
        Args:
            blocks: the cache this scheduler owns.
            max_sequences: requests that may run at the same time.
            token_budget: tokens computed in one step at most.
            context_length: tokens of prompt and answer together at most; no more than the cache holds in any case.
            prefix_reuse: let requests share the cache entries of equal beginnings.
            depth: steps under way at the same time, one in each stage of a pipeline. Requests that decode are dealt out
                to so many steps, or all stages but one would be idle.
            ahead: plan a step while the one before is under way, for workers that know what LATEST is. Not for
                pipelines, whose stages are busy with the steps of others meanwhile.

        Raises:
            UsageError: the limits contradict each other.
        """
        least = max_sequences + blocks.block_size
        if max_sequences < 1 or token_budget < least:
            # A prompt advances by whole blocks, and must be able to while all the others decode.
            raise UsageError(
                f"A step of {token_budget} tokens is too small for {max_sequences} parallel requests.",
                why=f"It takes a token of each and one cache block of {blocks.block_size} tokens, {least} in all.",
                fix=f"Allow at least one parallel request and at least {least} tokens a step.",
            )
        self._context_limit = context_length
        self._use(blocks)
        self._max_sequences = max_sequences
        self._step_size = StepSize(token_budget, least)
        self._prefix_reuse = prefix_reuse
        self._depth = depth
        self._ahead = ahead
        self._requests: dict[int, Request] = {}  # running and waiting
        self._running: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[int, list[tuple[Request, int]]] = {}  # plan number → its requests, and how far they get
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
            ContextOverflowError: its prompt leaves no room for an answer.
            UsageError: its prompt is empty, or it asks for no tokens at all.
            ValueError: its seq_id is in use.
        """
        if request.seq_id in self._requests:
            raise ValueError(f"sequence {request.seq_id} is not finished")
        if request.params.max_tokens < 1:
            raise UsageError(
                f"max_tokens is {request.params.max_tokens}.",
                why="An answer has at least one token.",
                fix="Ask for one token or more.",
            )
        if not request.tokens:
            raise UsageError("The prompt is empty.", fix="Send at least one token.")
        if len(request.tokens) >= self.context_length:
            raise ContextOverflowError(
                f"The prompt has {len(request.tokens)} tokens; the context holds {self.context_length}.",
                why="Prompt and answer share the context, and an answer takes at least one token.",
                fix="Shorten the prompt, or start with a larger --ctx-size.",
            )
        self._requests[request.seq_id] = request
        self._waiting.append(request)

    def step(self) -> StepPlan | None:
        """Plan the next forward pass; None when there is nothing to compute until a result or a request arrives."""
        draft = _Draft(self._step_size.tokens, self._blocks)
        if self._ahead and self._in_flight:
            self._plan_ahead(draft)
        else:
            self._plan_decodes(draft)
            self._plan_prefills(draft)
            self._admit(draft)
        if not draft.chunks:
            return None
        if draft.budget < self._blocks.block_size:
            self._step_size.take_full_step()
        plan = StepPlan(self._next_number, tuple(draft.chunks), tuple(draft.new), tuple(self._forget))
        self._next_number += 1
        self._in_flight[plan.number] = draft.ends
        self._forget = []
        return plan

    def finish_step(self, result: StepResult) -> list[TokenEvent]:
        """Take in what a step computed. The events come in the order of the plan's chunks; a request that finishes
        has lost its blocks when this returns. Results of cancelled requests and of aborted steps are dropped."""
        sampled = {token.seq_id: token for token in result.sampled}
        events = []
        for request, end in self._in_flight.pop(result.number, ()):
            if self._requests.get(request.seq_id) is not request:
                continue  # cancelled; its blocks may hold another sequence by now, so they must not be committed
            if self._prefix_reuse:
                self._blocks.commit(request.tokens, request.block_hashes, request.blocks, request.computed, end)
            request.computed = end
            if end == len(request.tokens):
                events.append(self._append(request, sampled[request.seq_id]))
        return events

    def cancel(self, seq_id: int) -> bool:
        """Drop a request and free its blocks at once, even in the middle of a step: the workers run plans in order,
        so a freed block is only overwritten after that step. False if there is no such request (any more)."""
        request = self._requests.get(seq_id)
        if request is None:
            return False
        if request.blocks:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        self._end(request)
        return True

    @property
    def running(self) -> int:
        """Requests that own cache blocks."""
        return len(self._running)

    def abandon_steps(self) -> None:
        """Take back all steps under way, whose results will never come: every running request waits again, in its
        place, and is computed anew. The cache's content is lost."""
        while self._running:
            self._preempt(self._running[-1])
        self._in_flight.clear()
        self._blocks.clear()

    @property
    def step_tokens(self) -> int:
        """Of a step, at most, at present."""
        return self._step_size.tokens

    def shrink_steps(self) -> None:
        """Compute half as many tokens in a step from now on, or as few as can be, until larger ones are worth a try."""
        self._step_size.shrink()

    def resize(self, n_blocks: int) -> list[int]:
        """Use a new cache, while no request is running.

        Returns:
            The ids of requests that it is too small for; they are dropped.
        """
        assert not self._running, "running requests would lose what they have computed"
        self._use(BlockManager(n_blocks, self._blocks.block_size))
        too_long = [request.seq_id for request in self._waiting if len(request.tokens) >= self.context_length]
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
        self._blocks.clear()
        return aborted

    def stats(self) -> SchedulerStats:
        """How full it is, and what it did so far."""
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_total=self._blocks.n_blocks,
            blocks_used=self._blocks.used_blocks,
            blocks_cached=self._blocks.reusable_blocks,
            prompt_tokens=self._prompt_tokens,
            prefix_hits=self._prefix_hits,
            generated_tokens=self._generated_tokens,
            preemptions=self._preemptions,
        )

    def _use(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self.context_length = min(self._context_limit, blocks.n_blocks * blocks.block_size)

    def _plan_decodes(self, draft: _Draft) -> None:
        """Plan the requests with one token to go; of a pipeline's stage its share of all that decode."""
        decoding = sum(len(request.tokens) - request.computed == 1 for request in self._running)
        share = -(-decoding // self._depth)
        for request in self._running:  # preemption shortens this list at its end, never up to the current request
            if len(draft.chunks) == share:
                return
            if request.missing == 1 and self._grow(request, len(request.tokens)):
                draft.add(request, len(request.tokens))

    def _plan_ahead(self, draft: _Draft) -> None:
        """Plan the step after the one under way, if all decode in it who are not at their end by then.

        Else it waits for the result. Who was left behind would keep to steps of its own, for which the weights are read
        once more: what penalties need is known only then. A prompt's chunk takes so long that the round trip does not
        matter, and whoever arrives meanwhile would wait for it.
        """
        if len(self._in_flight) > 1 or (self._waiting and self._has_room()):
            return
        if any(request.missing for request in self._running):
            return
        going_on = [request for request in self._running if not self._is_complete(request, request.planned + 1)]
        if any(request.params.penalizes for request in going_on):
            return
        if all(self._grow(request, request.planned + 1) for request in going_on):
            for request in going_on:
                draft.add(request, request.planned + 1)

    def _plan_prefills(self, draft: _Draft) -> None:
        """Plan the requests with more to go, as far as the budget lasts."""
        for request in self._running:
            if request.missing > 1:
                end = self._chunk_end(request.planned, request, draft.budget)
                if end > request.planned:
                    draft.add(request, end)

    def _admit(self, draft: _Draft) -> None:
        """Let waiting requests run, in order, while the budget and the blocks last."""
        while self._waiting and self._has_room():
            request = self._waiting[0]
            if not draft.budget:
                return
            matched = self._blocks.match(request.tokens, request.block_hashes) if self._prefix_reuse else []
            start = len(matched) * self._blocks.block_size
            end = self._chunk_end(start, request, draft.budget)
            if end <= start:
                return
            self._blocks.take(matched)
            # All blocks of what is known, so that only decoding can run out of them; and one spare for each that
            # runs, or what is admitted now, or was preempted just now, would be preempted again in a moment.
            missing = self._blocks.blocks_for(len(request.tokens)) - len(matched)
            fresh = self._blocks.allocate(missing, spare=len(self._running))
            if fresh is None:
                self._blocks.release(matched)
                return
            self._running.append(self._waiting.popleft())
            request.blocks = block_table(matched + fresh)
            request.computed = request.planned = start
            if not request.preemptions:
                request.cached = start
                self._prompt_tokens += len(request.tokens)
                self._prefix_hits += start
            draft.add(request, end)

    def _has_room(self) -> bool:
        """For one more request to run."""
        return len(self._running) < min(self._max_sequences, self._blocks.free_blocks)

    def _chunk_end(self, start: int, request: Request, budget: int) -> int:
        """Where a chunk from `start` ends: at the last known token, or else on a block border, so that a prompt is cut
        at the same places whatever shares its steps, and its work is always resumed at a border."""
        end = start + budget
        known = len(request.tokens)
        return known if end >= known else end - end % self._blocks.block_size

    def _grow(self, request: Request, end: int) -> bool:
        """See that there are blocks for positions up to `end`; preempt the youngest if need be.

        False if even that does not help now, because the youngest is in flight, or is this request itself. Then it
        waits with what it has: the older ones finish some day, or take its blocks.
        """
        missing = self._blocks.blocks_for(end) - len(request.blocks)
        if missing <= 0:
            return True
        while (fresh := self._blocks.allocate(missing)) is None:
            youngest = self._running[-1]
            if youngest is request or youngest.in_flight:
                return False
            self._preempt(youngest)
        request.blocks.extend(fresh)
        return True

    def _preempt(self, youngest: Request) -> None:
        self._running.pop()
        self._waiting.appendleft(youngest)
        self._strip(youngest)
        youngest.preemptions += 1
        self._preemptions += 1

    def _append(self, request: Request, sampled: SampledToken) -> TokenEvent:
        """Append a sampled token, and end the request if it was the last one."""
        request.tokens.append(sampled.token)
        self._generated_tokens += 1
        params = request.params
        finish = None
        if sampled.token in params.stop_tokens and not params.ignore_eos:
            finish = FinishReason.STOP
        elif self._is_complete(request, len(request.tokens)):
            finish = FinishReason.LENGTH
        if finish is not None:
            self._running.remove(request)
            self._end(request)
        return TokenEvent(request.seq_id, sampled, finish, request.cached)

    def _is_complete(self, request: Request, tokens: int) -> bool:
        """Whether it gets no more once it has so many."""
        return tokens - request.prompt_length >= request.params.max_tokens or tokens >= self.context_length

    def _end(self, request: Request) -> None:
        del self._requests[request.seq_id]
        self._strip(request)

    def _strip(self, request: Request) -> None:
        """Take a request's blocks away, and its place in the workers' memory."""
        self._blocks.release(request.blocks)
        request.blocks = block_table()
        request.computed = request.planned = 0
        if request.introduced:
            request.introduced = False
            self._forget.append(request.seq_id)


class _Draft:
    """A plan in the making."""

    def __init__(self, budget: int, blocks: BlockManager) -> None:
        self.budget = budget  # tokens left
        self.chunks: list[Chunk] = []
        self.new: list[NewSequence] = []
        self.ends: list[tuple[Request, int]] = []  # who is in it, and how many of their tokens will then be computed
        self._blocks = blocks

    def add(self, request: Request, end: int) -> None:
        """Compute a request's tokens up to position `end`: the known ones, or the one that comes next."""
        start, known = request.planned, len(request.tokens)
        if not request.introduced:
            request.introduced = True
            self.new.append(NewSequence(request.seq_id, tuple(request.tokens), request.prompt_length, request.params))
        table = request.blocks[: self._blocks.blocks_for(end)]  # a copy: the request's own grows
        tokens = tuple(request.tokens[start:end]) or (LATEST,)
        self.chunks.append(Chunk(request.seq_id, tokens, start, table, end >= known))
        self.ends.append((request, end))
        self.budget -= end - start
        request.planned = end
