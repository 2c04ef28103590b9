"""The one error that a rank's connections raise. It has a file of its own because the engine's side needs it, too."""


class PeerLostError(Exception):
    """Another rank hung up in the middle of a step. The engine finds out why."""
