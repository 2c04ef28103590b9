"""Puts the web application together: routes, middleware and the console."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from rowspan.backends.protocol import Backend
from rowspan.config import Paths, ServerConfig
from rowspan.console.app import console_routes
from rowspan.server import error_replies
from rowspan.server.anthropic.routes import messages_routes
from rowspan.server.health import model_routes
from rowspan.server.keys import KeyRing
from rowspan.server.llama_server.routes import llama_server_routes
from rowspan.server.metrics import RequestCount, metrics_routes
from rowspan.server.middleware import BodyLimit, KeyCheck, OriginCheck, RequestId, is_loopback
from rowspan.server.ollama.routes import ollama_routes
from rowspan.server.openai.chat import chat_routes
from rowspan.server.openai.completions import completion_routes
from rowspan.server.openai.embeddings import embedding_routes
from rowspan.server.patience import BodyPatience
from rowspan.server.recent import RecentRequests, recent_routes
from rowspan.server.rerank import rerank_routes
from rowspan.server.responses.routes import responses_routes
from rowspan.server.service import Service
from rowspan.server.session import session_routes
from rowspan.server.text_routes import text_routes

ROUTES = (
    *(chat_routes, completion_routes, responses_routes, messages_routes, ollama_routes, llama_server_routes),
    *(embedding_routes, rerank_routes, text_routes, model_routes),
)


def create_app(
    backend: Backend,
    config: ServerConfig,
    model_name: str,
    *,
    aliases: Collection[str] = (),
    is_guarded: bool = True,
) -> FastAPI:
    """The application that serves one model by OpenAI's, Anthropic's, Ollama's and llama-server's APIs, and the
    console.

    Args:
        model_name: the name by which clients call the model. aliases: others that mean it, too.
        is_guarded: it checks origins, keys and sizes itself; else somebody else does so before.
    """
    # FastAPI's own documentation pages load scripts from elsewhere; the schema itself stays at /openapi.json.
    app = FastAPI(title="Rowspan", docs_url=None, redoc_url=None, redirect_slashes=False)
    service = Service(backend, config, model_name, aliases)
    app.state.metrics = service.metrics
    api = [routes(service) for routes in ROUTES]
    console = console_routes(service, Paths.from_env().conversations)
    recent = RecentRequests()
    others = [*console, session_routes(key_ring(config)), recent_routes(recent), metrics_routes(service.metrics)]
    for router in api:
        app.include_router(router, responses=error_replies.ERROR_RESPONSES)
    for router in others:
        app.include_router(router)
    error_replies.install(app)
    if is_guarded:
        for guard, options in guards(config):
            app.add_middleware(guard, **options)
    paths = frozenset(getattr(route, "path", "") for router in (*api, *others) for route in router.routes)
    app.add_middleware(RequestCount, metrics=service.metrics, endpoints=paths, ended=recent.note)
    return app


def guards(config: ServerConfig) -> list[tuple[Any, dict[str, Any]]]:
    """What checks requests before any route sees them, as middleware with its options; the last meets them first."""
    found: list[tuple[Any, dict[str, Any]]] = [(BodyLimit, {}), (BodyPatience, {"seconds": config.request_seconds})]
    keys = key_ring(config)
    if keys:
        found.append((KeyCheck, {"keys": keys}))
    else:
        found.append((OriginCheck, {"loopback": is_loopback(config.host), "allowed": config.cors_origins}))
    if config.cors_origins:  # before the key is asked for: browsers' preflights have none
        origins = sorted(config.cors_origins)
        found.append((CORSMiddleware, {"allow_origins": origins, "allow_methods": ["*"], "allow_headers": ["*"]}))
    return [*found, (RequestId, {})]


def key_ring(config: ServerConfig) -> KeyRing:
    """The keys that a configuration names. Raises UsageError: their file cannot be read."""
    return KeyRing(config.api_keys, config.api_key_file)


def guarded(app: ASGIApp, config: ServerConfig) -> ASGIApp:
    """Another app behind the same checks."""
    for guard, options in guards(config):
        app = guard(app, **options)
    return app
