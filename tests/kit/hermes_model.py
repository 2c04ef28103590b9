"""A small random model whose template has tools in Hermes' form, so that a grammar makes it call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.gguf_builder import TinyModel
from kit.vocabulary import bpe

HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Calls: <tool_call>\n…\n</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    '{% for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def hermes_model(path: Path) -> Path:
    vocabulary = bpe(300, chat_template=HERMES)
    model = TinyModel(context_length=2048, vocab_size=300, chat_template=HERMES, extra=vocabulary)
    return model.write(path)
