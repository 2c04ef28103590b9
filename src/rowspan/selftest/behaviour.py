"""What a behaviour is, and how it ends: it holds, it does not, or there is nothing to try it at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

SHOWN = 160  # characters of an answer that are quoted


class Verdict(StrEnum):
    HOLDS = "holds"
    FAILS = "FAILS"
    ABSENT = "not there"


class Broken(Exception):
    """The server does not behave so. The text says what it did instead."""


class Absent(Exception):
    """The server has nothing of the kind: no such endpoint, or no model for it."""


@dataclass(frozen=True)
class Target:
    """The server that is tried. model: by which name it is asked; embedder, reranker: models for these, if others."""

    http: httpx.Client
    model: str
    embedder: str
    reranker: str

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A JSON object that answers a request.

        Raises:
            Absent: there is no such endpoint.
            Broken: it refuses, or answers something else.
        """
        return _object(self.http.post(path, json=body), path)

    def post_to_special(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same of an endpoint for models of a kind: one that refuses this model is as if not there."""
        response = self.http.post(path, json=body)
        if response.status_code == 400:
            raise Absent(f"{path} refuses the model {body['model']}: {response.text[:SHOWN]}")
        return _object(response, path)

    def get(self, path: str) -> dict[str, Any]:
        """The same of a GET."""
        return _object(self.http.get(path), path)

    def refused(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """The answer to a request that must not succeed. Raises Absent, or Broken if it does succeed."""
        response = self.http.post(path, json=body)
        _check_there(response, path, known_model=True)
        need(response.status_code >= 400, f"it was answered with {response.status_code}")
        need(response.status_code < 500, f"it was answered with {response.status_code}, a fault of the server's")
        return response

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Server-sent events, each as its name ("" if it has none) and its data."""
        with self.http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                response.read()
                _object(response, path)
            name = ""
            for line in response.iter_lines():
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.strip()
                elif field == "data":
                    yield name, value.strip()
                    name = ""

    def lines(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Objects that come one a line, as Ollama streams."""
        with self.http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                response.read()
                _object(response, path)
            return [json.loads(line) for line in response.iter_lines() if line]


@dataclass(frozen=True)
class Behaviour:
    """One behaviour that clients rely on. name: a short sentence. run: raises Broken or Absent."""

    dialect: str
    name: str
    run: Callable[[Target], None]


@dataclass(frozen=True)
class Result:
    behaviour: Behaviour
    verdict: Verdict
    why: str = ""


def try_one(behaviour: Behaviour, target: Target) -> Result:
    """Whether a behaviour holds. Whatever a server answers, the next one is tried."""
    try:
        behaviour.run(target)
    except Absent as reason:
        return Result(behaviour, Verdict.ABSENT, str(reason))
    except Broken as reason:
        return Result(behaviour, Verdict.FAILS, str(reason))
    except httpx.HTTPError as error:
        return Result(behaviour, Verdict.FAILS, f"{type(error).__name__}: {error}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Result(behaviour, Verdict.FAILS, f"the answer has another shape ({type(error).__name__}: {error})")
    return Result(behaviour, Verdict.HOLDS)


def need(condition: object, otherwise: str) -> None:
    """Raise Broken, with the words for it, unless a condition is met."""
    if not condition:
        raise Broken(otherwise)


def _object(response: httpx.Response, path: str) -> dict[str, Any]:
    _check_there(response, path)
    if response.status_code != 200:
        raise Broken(f"{path} answered {response.status_code}: {response.text[:SHOWN]}")
    answer = response.json()
    if not isinstance(answer, dict):
        raise Broken(f"{path} answered no object: {response.text[:SHOWN]}")
    return answer


def _check_there(response: httpx.Response, path: str, *, known_model: bool = False) -> None:
    if response.status_code in (405, 501) or (response.status_code == 404 and not known_model):
        raise Absent(f"{path}: {response.status_code}")
