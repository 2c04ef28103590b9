"""Masks of grammars: what they allow is what the grammar goes on with, also after tokens were taken back."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from kit.vocabulary import bpe, spm
from llguidance import LLMatcher

from rowspan.scheduler.batch import NewSequence
from rowspan.scheduler.request import SamplingParams
from rowspan.text.grammar import Grammar, GrammarError, GrammarKind, Thought, check_grammar
from rowspan.text.grammar_tokens import GrammarTokens
from rowspan.text.tokenizer import Tokenizer
from rowspan.worker.grammar_mask import GrammarMasks
from rowspan.worker.logits_changes import AllowedTokens
from rowspan.worker.logits_processors import LogitsProcessor, logits_processors, needs_last_token

SIZE = 390  # padded, as embeddings are
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["the world", "hello"]}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
GRAMMARS = [
    Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
    Grammar(GrammarKind.REGEX, "(he|the)llo{1,3}"),
    Grammar(GrammarKind.CHOICE, '["hello", "he said \\"hi\\""]'),
    Grammar(GrammarKind.GRAMMAR, 'root ::= "the " ("world" | "hell") [0-9]*'),
    Grammar(GrammarKind.LARK, 'start: until_marker_0 "x" marker_1', markers=("<s>", "<|im_start|>")),
    Grammar(GrammarKind.REGEX, "hello", thought=Thought("<s>", "the", begun=False, markers=("<s>", "the"))),
]


@pytest.fixture(scope="module", params=[bpe, spm], ids=["bpe", "spm"])
def tokens(request: pytest.FixtureRequest) -> GrammarTokens:
    return GrammarTokens(Tokenizer.from_metadata(request.param()), SIZE)


def processor(tokens: GrammarTokens, grammar: Grammar, known: list[int], prompt: int) -> LogitsProcessor:
    params = SamplingParams(grammar=grammar)
    assert needs_last_token(params)
    sequence = NewSequence(0, tuple(known), prompt, params)
    (made,) = logits_processors(sequence, GrammarMasks(lambda: tokens).processor)
    return made


def allowed(made: LogitsProcessor) -> list[int]:
    change = made.change(SIZE)
    assert isinstance(change, AllowedTokens)
    logits = np.zeros(SIZE, np.float32)
    change.apply(logits)
    return np.flatnonzero(np.isfinite(logits)).tolist()


def slowly(tokens: GrammarTokens, grammar: Grammar, generated: list[int]) -> tuple[list[int], bytes]:
    """The tokens that a grammar allows, tried one by one; and what text must come, if there is no choice."""
    matcher = LLMatcher(tokens.for_llguidance, grammar.for_llguidance(tokens.special))
    assert matcher.consume_tokens(generated), matcher.get_error()
    ends = set(tokens.for_llguidance.eos_tokens)
    can_end = matcher.is_accepting()
    tried = [token for token in range(SIZE) if (can_end if token in ends else matcher.validate_tokens([token]) == 1)]
    return tried, matcher.compute_ff_bytes()


@pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.kind)
def test_a_mask_allows_what_the_grammar_goes_on_with(tokens: GrammarTokens, grammar: Grammar) -> None:
    rng = random.Random()
    ends = set(tokens.for_llguidance.eos_tokens)
    prompt = [5, 6, 7]
    known = list(prompt)
    made = processor(tokens, grammar, known, len(prompt))
    for _ in range(25):
        now, (tried, forced) = allowed(made), slowly(tokens, grammar, known[len(prompt) :])
        assert now
        assert set(now) <= set(tried)
        assert forced or now == tried, "only text without a choice is written in the tokenizer's own way"
        going_on = [token for token in now if token not in ends]
        if not going_on or (len(known) > len(prompt) and rng.random() < 0.3):
            taken_back = rng.randint(0, len(known) - len(prompt))
            del known[len(known) - taken_back :]
            made.roll_back(taken_back)
        else:
            known.append(rng.choice(going_on))
            made.accept(known[-1])
        assert allowed(processor(tokens, grammar, known, len(prompt))) == allowed(made), "as if made anew"


def test_what_a_grammar_does_not_allow_can_be_taken_back(tokens: GrammarTokens) -> None:
    grammar = GRAMMARS[1]
    made = processor(tokens, grammar, [1], 1)
    first = allowed(made)
    wrong = next(token for token in range(SIZE) if token not in first)
    for token in (wrong, first[0], wrong):
        made.accept(token)
        allowed(made)
    made.roll_back(3)
    assert allowed(made) == first
    made.roll_back(1)
    assert made.change(SIZE) is None, "a token of the prompt is given"
    made.accept(1)
    assert allowed(made) == first


def test_behind_its_end_only_end_tokens_are_allowed(tokens: GrammarTokens) -> None:
    grammar = Grammar(GrammarKind.CHOICE, '["z"]')
    made = processor(tokens, grammar, [], 0)
    made.accept(allowed(made)[0])
    ends = allowed(made)
    assert ends == sorted(tokens.for_llguidance.eos_tokens)
    made.accept(ends[0])
    assert allowed(made) == ends, "where end tokens are ignored"


def test_what_cannot_be_enforced_ends_at_once(tokens: GrammarTokens) -> None:
    for grammar in (Grammar(GrammarKind.GRAMMAR, "nonsense"), Grammar(GrammarKind.JSON_SCHEMA, '{"not": {}}')):
        made = processor(tokens, grammar, [], 0)
        assert allowed(made) == sorted(tokens.for_llguidance.eos_tokens)


def test_very_many_choices(tokens: GrammarTokens) -> None:
    grammar = Grammar(GrammarKind.CHOICE, json.dumps([f"{number}th" for number in range(10_000)]))
    check_grammar(grammar)
    made = processor(tokens, grammar, [], 0)
    assert len(allowed(made)) >= 10, "each begins with a digit"


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"properties": {"a": {"type": "array", "contains": {}}}}, "contains"),
        ({"if": {}, "then": {}}, "if"),
        ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]}, "oneOf"),
        ({"$ref": "http://example.com/x"}, "$ref"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "format": "nonsense"}, "format"),
        ({"type": "nonsense"}, "type"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"minProperties": 2, "properties": {"a": {}}}, "Properties"),
    ],
)
def test_a_schema_that_cannot_be_honoured_names_its_keyword(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(GrammarError) as refused:
        check_grammar(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    assert keyword in f"{refused.value.what} {refused.value.why}"
