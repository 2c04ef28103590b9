"""A Jinja environment for templates from the internet. jinja2's sandbox bounds what they can reach; this file bounds
the time and the memory that they take.

In Jinja only loops over existing items and calls can take long. So a clock that is checked with every item and every
call ends whatever takes too long; and values grow by a few operations only, which check the size of their result first.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_LENGTH = 2**24  # characters, or items: far above any context, far below what would hurt the machine
MAX_BITS = 4096  # bits of an integer
MAX_NUMBER = 10_000  # largest width or count that a filter accepts
SECONDS = 5.0
# No template can set, or read, variables and filters of such names.
DEADLINE, WATCHED, JOINED = "the deadline", "watched", "joined strings"
COUNTING = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap"})
WIDE = re.compile(r"%(?:\(.*?\))?[-+ #0]*\d*\.?(?:\d{7}|\*)|\{[^{}]*:[^{}]*\d{7}")  # in formats, of both kinds


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A Jinja environment whose templates are bounded in time and memory. They must be rendered with the variables of
    `deadline()`.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        # Jinja's optimizer is off: it would compute constants while the template is read, without bounds.
        super().__init__(optimized=False, **options)
        del self.globals["lipsum"]
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {WATCHED: _watched, JOINED: _joined}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Let templates use a function as a filter of this name."""
        self.filters[name] = _bounded(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Instrument().visit(template)
        template.set_environment(self)
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _look_at_the_clock(context)
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_length(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _look_at_the_clock(__context)
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox has its own str.format around the real one
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            if any(isinstance(each, int) and abs(each) > MAX_LENGTH for each in (*args, *kwargs.values())):
                raise _too_large()
            if isinstance(owner, str):
                args = _check_method(owner, method.__name__, args)
        return super().call(__context, __obj, *args, **kwargs)


def deadline() -> dict[str, float]:
    """Variables that give a rendering `SECONDS` seconds from now."""
    return {DEADLINE: time.monotonic() + SECONDS}


class _Instrument(NodeTransformer):
    """Adds a check of the clock to loops, and a check of sizes to the operator `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, WATCHED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)


@pass_context
def _watched(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _look_at_the_clock(context)
        yield item


@pass_context
def _joined(context: Context, parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _check_length(sum(map(len, texts)))
    return "".join(texts)


def _look_at_the_clock(context: Context) -> None:
    if time.monotonic() > context.parent.get(DEADLINE, 0.0):
        raise TemplateError(f"it takes longer than {SECONDS:g} seconds")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter in a check of its arguments."""
    skipped = 1 + hasattr(function, "jinja_pass_arg")  # the context, say, and the value itself

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        options = (*args[skipped:], *kwargs.values())
        if name in COUNTING and any(isinstance(each, int) and abs(each) > MAX_NUMBER for each in options):
            raise _too_large()
        if name == "indent":
            lines = 1 + str(args[skipped - 1]).count("\n")
            _check_length(lines * max((len(each) for each in options if isinstance(each, str)), default=0))
        elif name == "replace" and len(args) >= skipped + 2:
            _check_replaced(str(args[skipped - 1]), str(args[skipped]), str(args[skipped + 1]))
        elif name == "join":
            items, between = list(args[skipped - 1]), next((each for each in options if isinstance(each, str)), "")
            _check_length(sum(len(str(item)) for item in items) + len(items) * len(between))
            args = (*args[: skipped - 1], items, *args[skipped:])
        elif name == "format":
            _check_format(str(args[skipped - 1]))
        return function(*args, **kwargs)

    return call


def _check_method(text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check the size that a text's method would return. Returns the arguments, which must be used in place of the
    original ones.
    """
    if name in ("format", "format_map"):
        _check_format(text)
    elif name == "replace" and len(args) >= 2:
        _check_replaced(text, str(args[0]), str(args[1]))
    elif name == "join" and args:
        items = list(args[0])
        _check_length(sum(len(str(item)) for item in items) + len(items) * len(text))
        return (items,)
    elif name == "expandtabs":
        _check_length(text.count("\t") * max((each for each in args if isinstance(each, int)), default=8))
    elif name == "translate" and args and isinstance(args[0], Mapping):
        _check_length(len(text) * max((len(str(each)) for each in args[0].values()), default=1))
    return args


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for sequence, times in ((left, right), (right, left)):
        if hasattr(sequence, "__len__") and isinstance(times, int):
            _check_length(len(sequence) * times)


def _check_replaced(text: str, old: str, new: str) -> None:
    _check_length(len(text) + text.count(old) * len(new))


def _check_format(text: str) -> None:
    if WIDE.search(text):
        raise _too_large()


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise _too_large()


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise TemplateError(f"a value grows beyond {MAX_LENGTH} characters")


def _too_large() -> TemplateError:
    return TemplateError("a number is too large")
