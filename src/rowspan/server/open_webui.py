"""Runs Open WebUI, if it is installed, as a supervised child that talks to this server. https://docs.openwebui.com"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rowspan.backends.process.child import HOST, Child, ChildError, Launch
from rowspan.backends.process.child_log import ChildLog
from rowspan.backends.protocol import MissingBackendError
from rowspan.backends.web_ui import web_ui_environment


class OpenWebUi:
    """The Open WebUI program. It asks nobody to sign in, because it answers on this machine only.

    Args:
        api: base address of the API, with /v1.
        api_key: None if the server requires none.
        data: folder of its database.
    """

    title = "Open WebUI"

    def __init__(self, program: Path, api: str, api_key: str | None, data: Path) -> None:
        self._program = program
        self._environment = {
            **web_ui_environment(api, api_key or "none"),
            "DATA_DIR": str(data),
            "WEBUI_AUTH": "False",
            # Open WebUI must need nothing but this server: no models from elsewhere.
            "OFFLINE_MODE": "true",
            "HF_HUB_OFFLINE": "1",
            "RAG_EMBEDDING_ENGINE": "openai",
        }

    def launch(self, port: int, key: str) -> Launch:
        # Without a secret in the environment Open WebUI would write one into the working directory.
        environment = {**self._environment, "WEBUI_SECRET_KEY": key}
        return Launch([str(self._program), "serve", "--host", HOST, "--port", str(port)], environment)


def find_open_webui() -> Path:
    """Find the program beside this interpreter or in PATH.

    Raises:
        MissingBackendError: it is not installed.
    """
    beside = Path(sys.executable).with_name("open-webui")
    found = str(beside) if beside.exists() else shutil.which("open-webui")
    if found is None:
        raise MissingBackendError(
            "Open WebUI is not installed.",
            why="There is no program open-webui in PATH.",
            fix="`pip install open-webui` in a virtual environment of its own, and put its bin folder into PATH; or "
            "`rowspan compose`, which runs it in a container.",
        )
    return Path(found)


@contextmanager
def beside_the_server(program: OpenWebUi, port: int, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Start Open WebUI while the server goes on, say where it is or why it failed, and stop it together with the
    server.
    """
    child = Child(program, ChildLog(folder / "open-webui.log"), port=port)

    def start() -> None:
        try:
            child.start()
        except ChildError as error:
            say(f"{error}")
        else:
            say(f"Open WebUI is at http://{HOST}:{port}/")

    starting = threading.Thread(target=start, daemon=True)
    starting.start()
    try:
        yield
    finally:
        child.stop()
        starting.join(5.0)
