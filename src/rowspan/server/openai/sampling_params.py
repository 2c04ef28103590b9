"""Converts a request's fields into the engine's SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from rowspan.backends.protocol import Dry, SamplingParams
from rowspan.server.error_replies import FieldError
from rowspan.server.openai.schema import GenerationRequest, Speculative

Number = TypeVar("Number", int, float)

MAX_TOKEN = 2**31
DEFAULT = SamplingParams()
COLDEST = 1e-4  # below this temperature, dividing by it overflows; the likeliest token has won long before


def sampling_params(request: GenerationRequest, *, logprobs: int | None, vocab_size: int | None) -> SamplingParams:
    """The parameters that the client asked for, with OpenAI's defaults for the rest; `limited` sets `max_tokens`.

    Raises:
        FieldError: logit_bias names a token that the model does not have.
    """
    temperature = _given(request.temperature, 1.0)
    repeat_penalty = request.repeat_penalty if request.repeat_penalty is not None else request.repetition_penalty
    return SamplingParams(
        temperature=temperature if temperature >= COLDEST else 0.0,
        top_k=max(0, request.top_k or 0),
        top_p=_given(request.top_p, 1.0),
        min_p=_given(request.min_p, 0.0),
        repeat_penalty=_given(repeat_penalty, 1.0),
        repeat_last_n=_given(request.repeat_last_n, DEFAULT.repeat_last_n),
        typical_p=_given(request.typical_p, 1.0),
        top_n_sigma=max(0.0, request.top_n_sigma or 0.0),
        xtc_probability=_given(request.xtc_probability, 0.0),
        xtc_threshold=_given(request.xtc_threshold, DEFAULT.xtc_threshold),
        dynatemp_range=_given(request.dynatemp_range, 0.0),
        dynatemp_exponent=_given(request.dynatemp_exponent, 1.0),
        dry=_dry(request),
        bad_texts=tuple(text for text in request.bad_words or () if text),
        frequency_penalty=_given(request.frequency_penalty, 0.0),
        presence_penalty=_given(request.presence_penalty, 0.0),
        logit_bias=_logit_bias(request.logit_bias or {}, vocab_size),
        seed=None if request.seed == -1 else request.seed,  # llama.cpp's word for any
        also_stops=frozenset(request.stop_token_ids or ()),
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
        priority=request.priority or 0,
        guesses=_guesses(request.speculative),
        logprobs=logprobs,
    )


def limited(params: SamplingParams, max_tokens: int | None, prompt_length: int, context_size: int) -> SamplingParams:
    """The parameters with `max_tokens` clipped to what is left of the context; None and -1 ask for all of it. The
    engine itself refuses a prompt that fills the context.
    """
    room = max(1, context_size - prompt_length)
    return replace(params, max_tokens=room if max_tokens in (None, -1) else min(max_tokens or room, room))


def truncated(prompt: list[int], last: int | None, context_size: int) -> list[int]:
    """The last so many tokens of a prompt; None: all of them, -1: as many as leave room for an answer."""
    if last is None or last == 0:
        return prompt
    return prompt[-(context_size - 1 if last == -1 else last) :]


def choice_params(params: SamplingParams, choice: int) -> SamplingParams:
    """The parameters for one of several answers to one prompt: each has its own seed."""
    return params if params.seed is None else replace(params, seed=params.seed + choice)


def _guesses(asked: bool | Speculative | None) -> int | None:
    if isinstance(asked, Speculative):
        return asked.n_max
    return 0 if asked is False else None


def _dry(request: GenerationRequest) -> Dry | None:
    """llama.cpp's defaults for what is not said; None if it is switched off, as it is by default."""
    if not request.dry_multiplier or request.dry_penalty_last_n == 0:
        return None
    dry = Dry(request.dry_multiplier)
    return replace(
        dry,
        base=_given(request.dry_base, dry.base),
        allowed_length=_given(request.dry_allowed_length, dry.allowed_length),
        last_n=_given(request.dry_penalty_last_n, dry.last_n),
        breaking_texts=dry.breaking_texts
        if request.dry_sequence_breakers is None
        else tuple(request.dry_sequence_breakers),
    )


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _logit_bias(biases: Mapping[str, float], vocab_size: int | None) -> dict[int, float]:
    known = MAX_TOKEN if vocab_size is None else vocab_size  # None: the backend refuses such tokens
    by_id = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < known):
            raise FieldError(
                f"logit_bias names {key[:20]!r}, which is no token of this model.",
                field="logit_bias",
                fix=f"Its keys are token ids from 0 to {known - 1}.",
            )
        by_id[int(key)] = bias
    return by_id
