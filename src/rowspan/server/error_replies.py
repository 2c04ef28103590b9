"""Formats errors as clients expect them, with the right status: OpenAI's as {"error": {"message", "type", "param",
"code"}}, those of other APIs, which are told by the path, as these have them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rowspan.errors import RowspanError, UsageError

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's status; nobody is there to read it
ERROR_CODE = "rowspan.error"  # where a request's scope has the code of the error that its client gets
UNAVAILABLE = "The engine failed, or is shutting down. Try again in a moment; the server's log says more."
INTERNAL = "The server failed to handle this request. Its log says more."


class FieldError(UsageError):
    """A field of the request is wrong."""

    def __init__(self, what: str, *, field: str, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.field = field


class UnknownModelError(FieldError):
    http_status = 404
    code = "model_not_found"


class ModelLoadError(RowspanError):
    """A model of several could not be loaded. Its reason is told: it is about the model, and helps to mend it."""

    http_status = 503
    code = "model_load_failed"


class InvalidKeyError(RowspanError):
    http_status = 401
    code = "invalid_api_key"


class ForeignOriginError(RowspanError):
    http_status = 403
    code = "foreign_origin"


class BodyTooLargeError(RowspanError):
    http_status = 413
    code = "request_too_large"


class BusyError(RowspanError):
    http_status = 429
    code = "too_many_requests"


HEADERS: Mapping[type[RowspanError], Mapping[str, str]] = {
    InvalidKeyError: {"WWW-Authenticate": "Bearer"},
    BusyError: {"Retry-After": "1"},
    BodyTooLargeError: {"Connection": "close"},  # the rest of the body is not read
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 429, 500, 503)
}


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_json(
    message: str, status: int, *, param: str | None = None, code: str | None = None, path: str = ""
) -> bytes:
    """The body of an error reply. It is ASCII, because messages may quote characters that no encoding can carry (lone
    surrogates).

    Args:
        path: of the request: Anthropic's and Ollama's APIs have forms of their own.
    """
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    if path.startswith("/v1/messages"):
        body = {"type": "error", "error": {"type": ANTHROPIC_TYPES.get(status, "api_error"), "message": message}}
    elif path.startswith("/api/"):
        body = {"error": message}
    return json.dumps(body).encode("ascii")


class ErrorResponse(Response):
    """A JSON response with an error."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None, code: str) -> None:
        super().__init__(body, status, headers, "application/json")
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ERROR_CODE] = self._code
        await super().__call__(scope, receive, send)


def code_of(error: Exception) -> str:
    return error.code if isinstance(error, RowspanError) else RowspanError.code


def describe(error: Exception, path: str = "") -> tuple[int, bytes]:
    """Status and body for any exception. Internal details go to the log only."""
    if not isinstance(error, RowspanError):
        log.error("Internal error", exc_info=error)
        return 500, error_json(INTERNAL, 500, code=code_of(error), path=path)
    status = error.http_status
    if status >= 500 and not isinstance(error, ModelLoadError):
        log.error("%s", error)
        message = UNAVAILABLE if status == HTTPStatus.SERVICE_UNAVAILABLE else INTERNAL
        return status, error_json(message, status, code=error.code, path=path)
    param = error.field if isinstance(error, FieldError) else None
    return status, error_json(str(error), status, param=param, code=error.code, path=path)


def error_response(error: Exception, path: str = "") -> Response:
    status, body = describe(error, path)
    headers = next((headers for kind, headers in HEADERS.items() if isinstance(error, kind)), None)
    return ErrorResponse(status, body, headers, code_of(error))


def install(app: FastAPI) -> None:
    """Make the app answer every exception in this format."""

    async def known(request: Request, error: Exception) -> Response:
        return error_response(error, request.url.path)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message, param = explain_invalid(error.errors(), error.body)
        body = error_json(message, 400, param=param, code=UsageError.code, path=request.url.path)
        return ErrorResponse(400, body, None, UsageError.code)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.url.path}"
        message = {
            400: "The request's body cannot be read. Send JSON, in UTF-8.",
            404: f"There is no {asked}. The API begins at /v1, for example /v1/chat/completions.",
            405: f"{asked} is not possible: wrong method.",
        }.get(error.status_code, error.detail)
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        body = error_json(message, error.status_code, code=code, path=request.url.path)
        return ErrorResponse(error.status_code, body, error.headers, code)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    app.add_exception_handler(RowspanError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, known)


def explain_invalid(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str, str | None]:
    """Pydantic's complaint as one sentence, and the path of the field that it is about.

    If a field may have several types, pydantic reports every alternative: the errors deepest in the body are closest to
    what the client meant.
    """
    if errors[0]["type"] == "json_invalid":
        return f"The request's body is not valid JSON: {errors[0]['ctx']['error']}.", None
    if isinstance(body, bytes):
        return "The request's body is not declared as JSON. Send the header Content-Type: application/json.", None
    paths = [_path(error, body) for error in errors]
    path = max(paths, key=lambda path: (len(path), [step for step in path if isinstance(step, int)]))
    furthest = [error for error, its_path in zip(errors, paths, strict=True) if its_path == path]
    if not path:
        return "The request has no body, or one that is not a JSON object. Send a JSON object.", None
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    if furthest[0]["type"] == "missing":
        return f"The field {name} is missing.", name
    reasons = dict.fromkeys(str(error["msg"]).removeprefix("Value error, ") for error in furthest)
    return f"The field {name} is wrong: {' or '.join(reasons)}.", name


def _path(error: Mapping[str, Any], body: Any) -> list[str | int]:
    """The path in the body at which an error is: pydantic's location without the names of a union's branches."""
    path: list[str | int] = []
    here = body
    for step in error["loc"][1:]:
        if (isinstance(here, dict) and step in here) or (isinstance(here, list) and isinstance(step, int)):
            here = here[step]
        elif not (isinstance(here, dict) and error["type"] == "missing" and step == error["loc"][-1]):
            continue
        path.append(step)
    return path
