"""Binds the port before anything expensive is done."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

import psutil

from rowspan.errors import RowspanError, UsageError

UNIX = ".sock"  # ending of a --host that is a Unix socket's path, as llama-server has it


class AddressError(UsageError):
    """The server cannot listen on the address that it was given."""

    code = "bad_address"


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet: until it does, clients are refused instead of left waiting.

    Raises:
        AddressError: the host is unknown, the address is not this machine's, or the port is in use or not allowed.
    """
    if host.endswith(UNIX):
        return _bind_unix(Path(host))
    try:
        # IPv4 first: "localhost" is both, and more programs try 127.0.0.1 than ::1.
        found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except (OSError, UnicodeError):
        raise AddressError(
            f"The host {host!r} is not known.",
            fix="Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all its networks.",
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _explain(error, host, port) from None
    return listener


def _bind_unix(path: Path) -> socket.socket:
    """A socket in the file system, which its owner's user alone may use; one that nobody listens on is replaced.

    Raises:
        AddressError: somebody listens there, or it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if other.connect_ex(str(path)) == 0:
                    raise AddressError(f"Another program listens on {path}.", fix="Choose another path with --host.")
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise AddressError(f"Cannot listen on {path}.", why=f"The system says: {error.strerror or error}.") from None
    except AddressError:
        listener.close()
        raise
    return listener


def listen(listener: socket.socket) -> None:
    """Start to accept connections.

    Raises:
        AddressError: another program was faster to listen on the port.
    """
    try:
        listener.listen()
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _explain(error, host, port) from None


def url(listener: socket.socket, scheme: str = "http") -> str:
    """The address to open in a browser on this machine."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _explain(error: OSError, host: str, port: int) -> RowspanError:
    match error.errno:
        case errno.EADDRINUSE:
            return AddressError(
                f"Port {port} is in use{_by_whom(port)}.", fix="Stop that program, or choose another port with --port."
            )
        case errno.EACCES:
            return AddressError(
                f"Port {port} is not allowed to you.",
                why="Ports below 1024 belong to the administrator.",
                fix="Choose one of 1024 or more with --port.",
            )
        case errno.EADDRNOTAVAIL:
            return AddressError(
                f"{host} is not an address of this machine.",
                fix="Use --host 127.0.0.1, or --host 0.0.0.0 for all of its.",
            )
        case _:
            return AddressError(f"Cannot listen on {host}, port {port}.", why=f"The system says: {error.strerror}.")


def _by_whom(port: int) -> str:
    """Names the program that listens on the port, as far as the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (port,):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
