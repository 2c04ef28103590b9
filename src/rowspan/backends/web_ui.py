"""Settings that tell Open WebUI about the API that it uses, wherever it runs.

https://docs.openwebui.com/reference/env-configuration
"""

from __future__ import annotations

import json


def web_ui_environment(api: str, api_key: str) -> dict[str, str]:
    """Environment variables for its process. Args: api: base address of the API, with /v1.

    Open WebUI takes them as defaults: what its administrator changes in the settings stands. Unasked, it gives a model
    tools of its own (seen in version 0.12), which Rowspan refuses, since it does not support tools yet; so a variable
    tells it not to.
    """
    return {
        "OPENAI_API_BASE_URLS": api,
        "OPENAI_API_KEYS": api_key,
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODEL_PARAMS": json.dumps({"function_calling": "legacy"}),
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
    }
