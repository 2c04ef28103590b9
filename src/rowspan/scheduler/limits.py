"""Checks the limits that any engine sets to a request. These rules and their messages are nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from rowspan.errors import ContextOverflowError, UsageError


def check_vocabulary(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise UsageError if a token is not in the model's vocabulary."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise UsageError(
            "The prompt holds a token id that the model does not have.",
            why=f"Its vocabulary is 0 to {vocab_size - 1}.",
            fix="Check that the tokenizer belongs to this model.",
        )


def check_lengths(prompt: int, max_tokens: int, context_size: int) -> None:
    """Check the lengths of prompt and answer.

    Args:
        prompt: number of tokens in the prompt.
        max_tokens: most tokens of the answer.
        context_size: most tokens of both together.

    Raises:
        ContextOverflowError: the prompt leaves no room for an answer.
        UsageError: the prompt is empty, or no tokens at all are asked for.
    """
    if max_tokens < 1:
        raise UsageError(
            f"max_tokens is {max_tokens}.", why="An answer has at least one token.", fix="Ask for one token or more."
        )
    if not prompt:
        raise UsageError("The prompt is empty.", fix="Send at least one token.")
    if prompt >= context_size:
        raise _too_long(str(prompt), context_size)


def check_text_length(tokens: int, context_size: int) -> None:
    """Check how many tokens a text has of which hidden states are wanted, and no answer.

    Raises:
        ContextOverflowError: they are more than the context holds.
        UsageError: there are none.
    """
    if not tokens:
        raise UsageError("The text is empty.", fix="Send at least one token.")
    if tokens > context_size:
        raise ContextOverflowError(
            f"The text has {tokens} tokens; the context holds {context_size}.",
            fix="Shorten the text, or start with a larger --ctx-size.",
        )


def check_least_length(least: int, context_size: int) -> None:
    """Raise ContextOverflowError if a prompt of at least `least` tokens leaves no room for an answer."""
    if least >= context_size:
        raise _too_long(f"at least {least}", context_size)


def _too_long(tokens: str, context_size: int) -> ContextOverflowError:
    return ContextOverflowError(
        f"The prompt has {tokens} tokens; the context holds {context_size}.",
        why="Prompt and answer share the context, and an answer takes at least one token.",
        fix="Shorten the prompt, or start with a larger --ctx-size.",
    )
