"""Grammars: what an answer may be, as data, and as llguidance compiles it. No torch.

llguidance (https://github.com/guidance-ai/llguidance) is imported when the first grammar is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from rowspan.errors import UsageError

MAX_CHECKED = 256  # grammars whose check is remembered
# White space between the parts of JSON has an end: a model that writes nothing else would never come to its own.
JSON_OPTIONS: dict[str, Any] = {"whitespace_pattern": r"[ \n\r\t]{1,20}"}
# What llguidance says of a schema without naming the keyword → the keyword.
KEYWORDS = (
    (r"^Resource ", "$ref"),
    (r"^regex parse error", "pattern"),
    (r"multiple of", "multipleOf"),
    (r"^Unknown format", "format"),
    (r"^Invalid type", "type"),
)
ANSWER = "answer"  # the name of a grammar behind reasoning
ANY_TEXT = "ANY_TEXT: /(.|\\n)+/\n"

Special = Callable[[str], int | None]
"""The id of a text that is one special token; None: it is spelled as other text is."""


class GrammarKind(StrEnum):
    """What a grammar's source is: choice, a JSON list of texts; grammar, in llama.cpp's GBNF or in Lark, as a client
    wrote it; Lark, as llguidance extends it.
    """

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"
    LARK = "lark"


class GrammarError(UsageError):
    """A grammar, or a JSON schema, that cannot be enforced."""

    code = "invalid_grammar"


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning that comes before what a grammar describes: any text that ends with `closing`.

    begun: the prompt has its opening already; else the model may leave it out.
    answer: what stands before the answer.
    markers: as those of a grammar. Empty: opening and closing are plain text.
    """

    opening: str
    closing: str
    begun: bool
    answer: str = ""
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer may be.

    lenient: keywords of a JSON schema that cannot be enforced are ignored.
    markers: texts that are special tokens of some models: in a source in Lark the rule `marker_0` is the first of them,
        `until_marker_0` any text that ends with it.
    thought: what may come first; None: nothing.
    alternative: what the answer may be instead, behind the same thought. It begins otherwise.
    """

    kind: GrammarKind
    source: str
    lenient: bool = False
    markers: tuple[str, ...] = ()
    thought: Thought | None = None
    alternative: Grammar | None = None

    def for_llguidance(self, special: Special) -> str:
        """The grammar in llguidance's own form.

        Raises:
            GrammarError: the source cannot be read.
        """
        parts = self._parts(special)
        if self.alternative is not None:
            other = self.alternative._parts(special)
            either = {"lark_grammar": "start: @this | @other"}
            parts = [either, {**parts[0], "name": "this"}, *parts[1:], {**other[0], "name": "other"}, *other[1:]]
        if self.thought is not None:
            parts = [_thinking(self.thought, special), {**parts[0], "name": ANSWER}, *parts[1:]]
        return json.dumps({"grammars": parts})

    def _parts(self, special: Special) -> list[dict[str, Any]]:
        source = self._converted(special)
        # Lark is text, which never begins so; a schema comes in llguidance's JSON.
        return json.loads(source)["grammars"] if source.startswith("{") else [{"lark_grammar": source}]

    def _converted(self, special: Special) -> str:
        from llguidance import LLMatcher, grammar_from

        try:
            match self.kind:
                case GrammarKind.JSON_SCHEMA:
                    options = JSON_OPTIONS | {"lenient": self.lenient}
                    return LLMatcher.grammar_from_json_schema(self.source, defaults=options)  # type: ignore[arg-type]
                case GrammarKind.REGEX:
                    return grammar_from("regex", self.source)
                case GrammarKind.CHOICE:
                    texts = [json.dumps(text, ensure_ascii=False) for text in json.loads(self.source)]
                    return f"start: CHOICE\nCHOICE: {' | '.join(texts)}"  # a terminal, which may be of thousands
                case GrammarKind.GRAMMAR:
                    return grammar_from("grammar", self.source)
                case GrammarKind.LARK:
                    return f"{self.source}\n{_marker_rules(self.markers, special)}{ANY_TEXT}"
        except (ValueError, RecursionError) as error:
            raise _refusal(self, str(error)) from None


def check_grammar(grammar: Grammar) -> None:
    """Make sure that llguidance can enforce a grammar. It may take a tenth of a second, for large ones.

    Raises:
        GrammarError: says what is wrong, and names the keyword of a JSON schema.
    """
    if problem := _problem(grammar):
        raise _refusal(grammar, problem)


@lru_cache(MAX_CHECKED)
def _problem(grammar: Grammar) -> str:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    return LLMatcher.validate_grammar(grammar.for_llguidance(lambda text: None), limits=limits)


def _refusal(grammar: Grammar, why: str) -> GrammarError:
    why = why.strip()[:1000].removesuffix(".") + "."
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        return GrammarError(f"This {grammar.kind} cannot be enforced.", why=why)
    named = next((f" ({keyword})" for pattern, keyword in KEYWORDS if re.search(pattern, why)), "")
    return GrammarError(f"This JSON schema cannot be enforced{named}.", why=why, fix="Leave the keyword out.")


def _thinking(thought: Thought, special: Special) -> dict[str, str]:
    markers = thought.markers or (thought.closing,)
    words = Words(markers)
    opening, (end, *rest) = words.of(thought.opening), words.of(thought.closing)
    closed = [f"until_{end}", *rest]
    reasoning = closed if thought.begun else ["(", *opening, *closed, ")?"]
    start = " ".join(["start:", *reasoning, "GAP?", *words.of(thought.answer), f"@{ANSWER}"])
    return {"lark_grammar": f"{start}\nGAP: /[ \\n\\r\\t]{{1,8}}/\n{_marker_rules(markers, special)}{ANY_TEXT}"}


def _marker_rules(markers: tuple[str, ...], special: Special) -> str:
    return "".join(
        _rule(f"marker_{place}", marker, special) + _until(f"until_marker_{place}", marker, special)
        for place, marker in enumerate(markers)
    )


def _rule(name: str, text: str, special: Special) -> str:
    token = special(text)
    return f"{name}: {json.dumps(text, ensure_ascii=False)}\n" if token is None else f"{name}: <[{token}]>\n"


def _until(name: str, text: str, special: Special) -> str:
    """A rule for any text that ends with the first occurrence of a text, or of the special token that it is."""
    token = special(text)
    if token is None:
        return f"{name}[suffix={json.dumps(text, ensure_ascii=False)}]: /(.|\\n)*/\n"
    return f"{name}: ANY_TEXT? <[{token}]>\n"


class Words:
    """Texts as Lark has them: literals, and rules for markers."""

    def __init__(self, markers: tuple[str, ...]) -> None:
        self._rules = {marker: f"marker_{place}" for place, marker in enumerate(markers)}
        longest_first = sorted(map(re.escape, markers), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(longest_first) or '(?!)'})").split

    def of(self, text: str) -> list[str]:
        parts = [part for part in self._split(text) if part]
        return [self._rules.get(part) or json.dumps(part, ensure_ascii=False) for part in parts]
