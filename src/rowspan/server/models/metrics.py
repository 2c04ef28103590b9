"""The metrics of several models on one page: each series with the model's name as a label."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rowspan.server.models.pool import ModelPool

PROCESS = "process_"  # of the whole server: told once


class _AllModels(Collector):
    def __init__(self, found: list[tuple[str, Metric]]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for model, family in self._found:
            joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            if family.name.startswith(PROCESS):
                joined.samples = family.samples
            else:
                joined.samples += [
                    sample._replace(labels={"model": model, **sample.labels}) for sample in family.samples
                ]
        return families.values()


async def pool_metrics(pool: ModelPool, accept: str) -> tuple[bytes, str]:
    """The page, and its content type. Models that have never been loaded are not on it."""
    found = []
    for model in pool.models:
        if model.app is not None:
            families = await model.app.state.metrics.families()
            found += [(model.entry.name, family) for family in families]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_AllModels(found))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
