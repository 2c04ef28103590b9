"""Models as the console shows them: those that are here, those of the catalog, and what rigs could do with them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from rowspan import hub
from rowspan.config import HubConfig
from rowspan.console.pulls import Pulls
from rowspan.console.served import Served, blueprint_of, model_path_of
from rowspan.errors import RowspanError, UsageError
from rowspan.hub.machine import room_for_weights
from rowspan.hub.model_names import parse
from rowspan.plan.rigs.advice import AdviceRequest, advise
from rowspan.plan.rigs.advice_table import to_dict
from rowspan.plan.rigs.capacity import Load
from rowspan.plan.rigs.gguf_outline import read_local
from rowspan.plan.rigs.model_shapes import in_catalog, known_models, unknown_model
from rowspan.plan.rigs.outline import Outline, outline, outline_of_spec
from rowspan.rig.catalog.known_cards import find_card, known_cards
from rowspan.rig.catalog.rigs import parse_rigs
from rowspan.rig.probe.rig import probe_cards

Json = dict[str, Any]
PLAN_CONTEXT = 8192  # tokens, for which fit and speed are foretold unless a page asks for another context
LONG_VALUE = 400  # characters; longer metadata is cut, but for the template


class PullRequest(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=500)]


def model_routes(served: Served) -> APIRouter:
    """Most are plain functions, which run on a thread: they read files."""
    router = APIRouter(prefix="/console/api", include_in_schema=False)
    pulls = Pulls()

    @router.get("/models")
    def models() -> Json:
        config = HubConfig.from_env()
        room, rig, running = room_for_weights(), rig_here(), model_path_of(served.backend)
        return {
            "installed": [
                {**asdict(model), "path": str(model.path), "running": model.path == running}
                for model in hub.installed(config)
            ],
            "catalog": [
                {
                    "name": entry.name,
                    "license": entry.license,
                    "bytes": None if entry.size is None else int(entry.size * 1e9),
                    "installed": path is not None,
                    "forecast": _forecast(entry.name, rig),
                }
                for entry, path in hub.catalog_state(config)
            ],
            "room": {"cards": room.cards, "ram": room.ram},
            "rig": rig,
            "pulls": pulls.listed(),
        }

    @router.get("/pulls")
    def list_pulls() -> Json:
        return {"pulls": pulls.listed()}

    @router.post("/pulls")
    def pull(request: PullRequest) -> Json:
        _, source = parse(request.name)
        if source.kind == "local file":
            raise UsageError("This is a file of the server, not a model to fetch.", fix="Name a model of the catalog.")
        pulls.begin(request.name)
        return {"pulls": pulls.listed()}

    @router.delete("/models")
    def delete(path: Annotated[str, Query(max_length=4096)]) -> Json:
        if Path(path) == model_path_of(served.backend):
            raise UsageError("This model is running.", fix="Serve another one first.")
        freed = hub.delete(Path(path))
        return {"freed": freed}

    @router.get("/models/metadata")
    def metadata() -> Json:
        """The running model's metadata; long lists are told by their length."""
        blueprint = blueprint_of(served.backend)
        if blueprint is None:
            raise UsageError("The model's metadata is not known.", why="Another engine runs it.")
        found = blueprint.checkpoint.metadata
        return {"metadata": {key: _told(value) for key, value in sorted(found.items())}}

    @router.get("/plan/names")
    def plan_names() -> Json:
        return {
            "models": [model.name for model in known_models()],
            "cards": [{"name": card.name, "price": card.price, "memory": card.memory} for card in known_cards()],
            "here": rig_here(),
        }

    @router.get("/plan")
    def plan(
        model: Annotated[str, Query(max_length=500)],
        rigs: Annotated[str, Query(max_length=500)],
        context: Annotated[int, Query(ge=256, le=1 << 24)] = PLAN_CONTEXT,
        parallel: Annotated[int, Query(ge=1, le=1024)] = 1,
    ) -> Json:
        request = AdviceRequest(Load(context=context, parallel=parallel))
        return to_dict(advise(_outline(served, model), parse_rigs(rigs), request))

    return router


def rig_here() -> str | None:
    """This machine's cards as `parse_rigs` reads them; None if there are none, or some are not in the catalog."""
    counts: dict[str, int] = {}
    for card in probe_cards():
        if card.integrated:
            continue
        try:
            name = find_card(card.name).name
        except UsageError:
            return None
        counts[name] = counts.get(name, 0) + 1
    return "+".join(f"{count}x{name}" for name, count in counts.items()) or None


def _outline(served: Served, model: str) -> Outline:
    """The outline of the served model, or of a known shape."""
    path = model_path_of(served.backend)
    if model == served.model_name and path is not None:
        facts = read_local(path)
        return outline(facts.spec, facts.listed, facts.infos, facts.scheme)
    known = in_catalog(model)
    if known is None:
        raise unknown_model(model)
    return outline_of_spec(*known)


def _forecast(name: str, rig: str | None) -> Json | None:
    """Whether a model of the catalog fits this machine's cards, and how fast it would be; None if that is unknown."""
    known = in_catalog(name)
    if known is None or rig is None:
        return None
    try:
        best = advise(outline_of_spec(*known), parse_rigs(rig), AdviceRequest(Load(PLAN_CONTEXT))).rigs[0].best
    except RowspanError:
        return None
    if best is None or best.placement is None:
        return {"fits": False}
    tg = best.forecast.tg if best.forecast else None
    return {
        "fits": True,
        "split": best.mode.value,
        "largest_context": best.placement.largest_context(1),
        "tg": None if tg is None else {"value": tg.value, "low": tg.low, "high": tg.high},
    }


def _told(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONG_VALUE else f"{value[:LONG_VALUE]}… ({len(value)} characters)"
    if isinstance(value, (int, float, bool)):
        return value
    return f"{len(value)} values" if hasattr(value, "__len__") else str(value)
