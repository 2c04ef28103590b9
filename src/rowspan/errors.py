"""One exception tree. Every error says what happened, why, and what to do next."""


class RowspanError(Exception):
    """Base of every error a user may see.

    Args:
        what: what happened, one sentence, with the name of the thing it happened to.
        why: the reason, when it is known.
        fix: what the user can do next.
    """

    exit_code = 1
    http_status = 500
    code = "internal_error"

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)


class UsageError(RowspanError):
    """The request itself is wrong: an option, a field, a value."""

    exit_code = 2
    http_status = 400
    code = "invalid_request"


class ModelNotFoundError(RowspanError):
    """No model of that name or path."""

    exit_code = 2
    http_status = 404
    code = "model_not_found"


class DownloadError(RowspanError):
    """A model could not be fetched."""

    code = "download_failed"


class CheckpointError(RowspanError):
    """A model file is damaged, truncated, or not what it claims to be."""

    code = "bad_checkpoint"


class UnsupportedModelError(RowspanError):
    """The file is sound, but asks for something Rowspan cannot do (yet)."""

    code = "unsupported_model"


class SplitError(RowspanError):
    """The model cannot be split over these devices in this way."""

    exit_code = 2
    code = "bad_split"


class RowSplitError(SplitError):
    """The model's layers cannot be cut by row over these devices, but can be assigned whole."""


class OutOfMemoryError(RowspanError):
    """The model or its cache does not fit."""

    code = "out_of_memory"


class ContextOverflowError(UsageError):
    """Prompt and answer do not fit the context."""

    code = "context_length_exceeded"


class EngineError(RowspanError):
    """The engine stopped, a worker died, or a step failed."""

    http_status = 503
    code = "engine_unavailable"
