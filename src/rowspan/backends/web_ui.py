"""What Open WebUI is told of the API that it talks to, wherever it runs.

https://docs.openwebui.com/reference/env-configuration
"""

from __future__ import annotations

import json


def web_ui_environment(api: str, api_key: str) -> dict[str, str]:
    """Variables for its process. Args: api: base address, with /v1.

    It counts them as defaults: what its administrator changes in the settings stands. Unasked, it hands a model tools
    of its own (seen of version 0.12), which Rowspan refuses, as it does not know tools yet; so it is told not to.
    """
    return {
        "OPENAI_API_BASE_URLS": api,
        "OPENAI_API_KEYS": api_key,
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODEL_PARAMS": json.dumps({"function_calling": "legacy"}),
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
    }
