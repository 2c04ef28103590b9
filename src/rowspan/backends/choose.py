"""Chooses the backend that runs a model."""

from __future__ import annotations

from dataclasses import dataclass

from rowspan.backends.llamacpp.llamacpp_backend import LlamaCpp
from rowspan.backends.native import NativeBackend
from rowspan.backends.process.child_backend import ChildBackend
from rowspan.backends.protocol import (
    Backend,
    BackendName,
    MissingBackendError,
    ModelFormat,
    Setup,
    UnsupportedOptionError,
)
from rowspan.backends.vllm.vllm_backend import Vllm
from rowspan.engine.blueprint import make_blueprint, with_trusted_routes
from rowspan.errors import RowspanError, SplitError, UnsupportedModelError, UsageError


@dataclass(frozen=True)
class Choice:
    """A chosen backend. reason: one line that says why; None if the user named it."""

    backend: Backend
    reason: str | None = None


def choose(name: BackendName | None, setup: Setup) -> Choice:
    """Open the backend of this name; for None the native engine if it can run the model on these devices, else one that
    can.

    Raises:
        MissingBackendError: its program is not installed.
        RowspanError: it cannot run this model, or not with these options.
    """
    if name is not None:
        return Choice(open_backend(name, setup))
    if setup.backend.arguments:
        raise UsageError("--backend-args needs to know for whom.", fix="Add --backend llamacpp or --backend vllm.")
    if setup.model.format == ModelFormat.HF:
        return Choice(
            open_backend(BackendName.VLLM, setup), f"{setup.model.name} is a {ModelFormat.HF}: only vLLM reads it"
        )
    try:
        return Choice(open_backend(BackendName.NATIVE, setup), "the native engine can run this model here")
    except (UnsupportedModelError, SplitError) as error:
        return Choice(_instead(error, setup), f"the native engine cannot: {error.what}")


def open_backend(name: BackendName, setup: Setup) -> Backend:
    """Open a backend without starting it. Raises the same as `choose`."""
    return _native(setup) if name == BackendName.NATIVE else open_child(name, setup)


def open_child(name: BackendName, setup: Setup) -> ChildBackend:
    """Open a backend that is another program. Raises the same as `choose`."""
    return ChildBackend(LlamaCpp.open(setup) if name == BackendName.LLAMACPP else Vllm.open(setup), setup)


def _native(setup: Setup) -> NativeBackend:
    if setup.model.format != ModelFormat.GGUF:
        raise UsageError(
            f"{setup.model.name} is a {setup.model.format}, which the native engine does not read.",
            fix="Use --backend vllm, or a GGUF file of the model.",
        )
    if setup.backend.arguments:
        raise UnsupportedOptionError(
            "--backend-args cannot be had with --backend native.", fix="Use Rowspan's own options."
        )
    return NativeBackend(with_trusted_routes(make_blueprint(setup.engine)))


def _instead(error: RowspanError, setup: Setup) -> Backend:
    try:
        return open_backend(BackendName.LLAMACPP, setup)
    except MissingBackendError as missing:
        error.fix = f"{error.fix} Or let llama.cpp run it: {missing.fix}"
        raise error from None
