"""Formats an explained plan as plain text: a column for every device, a line for every figure, and a few sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import fill

from rowspan.plan.explain import HANDS_ON, PROMPT, SUMS, Explanation, Holding, Talk, memory_text
from rowspan.plan.routes import Transport
from rowspan.plan.shard import Span

NONE = "-"
GAP = "  "
Line = tuple[str, ...]


def to_text(explanation: Explanation, width: int, emphasize: Callable[[str], str] = str) -> str:
    """Title, table and sentences, in lines of `width` characters. If not all devices fit beside each other, the table
    is split into blocks, one below the other.

    Args:
        emphasize: applied to the title.
    """
    table = lines(explanation)
    blocks = [_aligned(block) for block in _blocks(table, width)]
    sentences = [fill(f"- {words}", width, subsequent_indent="  ") for words in notes(explanation)]
    return "\n".join([emphasize(fill(explanation.title, width)), "\n\n".join(blocks), "", *sentences])


def lines(explanation: Explanation) -> list[Line]:
    """Lines of a label, a cell for each rank, and one cell for the total if there are several ranks. Lines without any
    figure are left out.
    """
    totals = explanation.totals()
    heads = {"query heads": "heads", "KV heads": "kv_heads", "MLP rows": "ffn"}
    whole = {"heads": explanation.n_heads, "kv_heads": explanation.n_kv_heads, "ffn": explanation.ffn_size}
    several, stages = len(explanation.holdings) > 1, {holding.stage for holding in explanation.holdings}
    cut = any(len(holding.ffn) < explanation.ffn_size for holding in explanation.holdings)

    figures: list[tuple[str, Callable[[Holding], str], str]] = []
    if cut and len(stages) > 1:
        figures.append(("stage.tp_rank", lambda holding: f"{holding.stage}.{holding.tp_rank}", ""))
    figures.append(("layers", _layers, str(explanation.n_layers)))
    if cut or not several:
        figures += [(label, _count(field), str(whole[field])) for label, field in heads.items()]
    figures += [
        ("vocabulary looked up", lambda holding: _span(holding.embedding), str(explanation.vocab_size)),
        ("vocabulary predicted", lambda holding: _span(holding.head), str(explanation.vocab_size)),
    ]
    sizes = {
        "read of the file": "file",
        "weights": "weights",
        "KV cache per token": "cache_per_token",
        f"KV cache, {explanation.cache_tokens} tokens": "cache",
        "buffers": "buffers",
        "memory in all": "memory",
    }
    if several:
        sizes |= {"sends per token": "sent_per_token", f"sends per prompt of {PROMPT}": "sent_per_prompt"}
    figures += [(label, _bytes(field), memory_text(totals[field])) for label, field in sizes.items()]
    for label, act in (("sums over", SUMS), ("hands on over", HANDS_ON)):
        figures.append((label, partial(_transport, explanation, act), ""))

    filled = [
        (label, *map(cell, explanation.holdings), *([total] if several else [])) for label, cell, total in figures
    ]
    header = ("", *(holding.device for holding in explanation.holdings), *(["all"] if several else []))
    ranks = slice(1, 1 + len(explanation.holdings))
    return [header, *(line for line in filled if any(cell != NONE for cell in line[ranks]))]


def notes(explanation: Explanation) -> list[str]:
    """Sentences on how ranks communicate and why, and on what is worth knowing of the split."""
    told: dict[tuple[str, str, str], list[Talk]] = {}
    for talk in explanation.talks:
        told.setdefault((talk.act, talk.transport, talk.why), []).append(talk)
    sentences = []
    for (act, transport, why), talks in told.items():
        who = "; ".join(_who(explanation, talk) for talk in talks)
        does = "Sums and gathers" if act == SUMS else "Hand-overs"
        sentences.append(f"{does} take {transport} ({who}): {why}.")
    if explanation.talks:
        sentences.append(
            f"The transports have been probed on this machine{_but_not(explanation)}: data arrived as sent."
            if explanation.probed
            else "The transports are probed when the engine starts; what fails is replaced by the next one."
        )
    return [*sentences, *explanation.notes]


def _but_not(explanation: Explanation) -> str:
    """The transports that a single machine cannot try, in words."""
    return ", but gloo" if any(talk.transport == Transport.GLOO for talk in explanation.talks) else ""


def _blocks(table: Sequence[Line], width: int) -> list[list[Line]]:
    """Split a table into several, each of as many columns as fit beside the labels."""
    columns = [list(column) for column in zip(*table, strict=True)]
    labels, others = columns[0], columns[1:]
    blocks: list[list[list[str]]] = []
    for column in others:
        grown = [*blocks[-1], column] if blocks else [column]
        if blocks and _width([labels, *grown]) <= width:
            blocks[-1] = grown
        else:
            blocks.append([column])
    return [[tuple(line) for line in zip(labels, *block, strict=True)] for block in blocks]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + len(GAP) * (len(columns) - 1)


def _aligned(table: Sequence[Line]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in table)
    return "\n".join(GAP.join(row).rstrip() for row in rows)


def _layers(holding: Holding) -> str:
    return f"{holding.layers.start}-{holding.layers.stop - 1}"


def _count(field: str) -> Callable[[Holding], str]:
    return lambda holding: str(len(getattr(holding, field)))


def _bytes(field: str) -> Callable[[Holding], str]:
    return lambda holding: memory_text(getattr(holding, field))


def _span(held: Span | None) -> str:
    return NONE if held is None else str(len(held))


def _transport(explanation: Explanation, act: str, holding: Holding) -> str:
    """The transport that a rank uses: every rank of a group has one, of a link only the first rank."""
    for talk in explanation.talks:
        if talk.act == act and (holding.rank in talk.ranks if act == SUMS else holding.rank == talk.ranks[0]):
            return talk.transport
    return NONE


def _who(explanation: Explanation, talk: Talk) -> str:
    devices = [explanation.holdings[rank].device for rank in talk.ranks]
    return ", ".join(devices) if talk.act == SUMS else f"{devices[0]} to {', '.join(devices[1:])}"
