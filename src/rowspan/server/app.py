"""Puts the web application together: routes, middleware and the chat page."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from rowspan.backends.protocol import Backend
from rowspan.config import ServerConfig
from rowspan.console.chat_page import console_routes
from rowspan.server import error_replies
from rowspan.server.anthropic.routes import messages_routes
from rowspan.server.health import model_routes
from rowspan.server.llama_server.routes import llama_server_routes
from rowspan.server.metrics import RequestCount, metrics_routes
from rowspan.server.middleware import BodyLimit, KeyCheck, OriginCheck, RequestId, is_loopback
from rowspan.server.ollama.routes import ollama_routes
from rowspan.server.openai.chat import chat_routes
from rowspan.server.openai.completions import completion_routes
from rowspan.server.openai.embeddings import embedding_routes
from rowspan.server.patience import BodyPatience
from rowspan.server.rerank import rerank_routes
from rowspan.server.responses.routes import responses_routes
from rowspan.server.service import Service
from rowspan.server.text_routes import text_routes

ROUTES = (
    *(chat_routes, completion_routes, responses_routes, messages_routes, ollama_routes, llama_server_routes),
    *(embedding_routes, rerank_routes, text_routes, model_routes),
)


def create_app(backend: Backend, config: ServerConfig, model_name: str) -> FastAPI:
    """The application that serves one model by OpenAI's, Anthropic's and Ollama's APIs, and the chat page.

    Args:
        model_name: the name by which clients call the model.
    """
    # FastAPI's own documentation pages load scripts from elsewhere; the schema itself stays at /openapi.json.
    app = FastAPI(title="Rowspan", docs_url=None, redoc_url=None, redirect_slashes=False)
    service = Service(backend, config, model_name)
    api = [routes(service) for routes in ROUTES]
    others = [console_routes(), metrics_routes(service.metrics)]
    for router in api:
        app.include_router(router, responses=error_replies.ERROR_RESPONSES)
    for router in others:
        app.include_router(router)
    error_replies.install(app)
    # The middleware added last is the first that a request meets.
    app.add_middleware(BodyLimit)
    app.add_middleware(BodyPatience, seconds=config.request_seconds)
    if config.api_keys:
        app.add_middleware(KeyCheck, keys=config.api_keys)
    else:
        app.add_middleware(OriginCheck, loopback=is_loopback(config.host), allowed=config.cors_origins)
    if config.cors_origins:  # before the key is asked for: browsers' preflights have none
        app.add_middleware(
            CORSMiddleware, allow_origins=sorted(config.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(RequestId)
    paths = frozenset(getattr(route, "path", "") for router in (*api, *others) for route in router.routes)
    app.add_middleware(RequestCount, metrics=service.metrics, endpoints=paths)
    return app
