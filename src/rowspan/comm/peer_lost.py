"""The one error of a rank's connections, apart from them: the engine's side knows it, too."""


class PeerLostError(Exception):
    """Another rank hung up in the middle of a step. Why it did is for the engine to find out."""
