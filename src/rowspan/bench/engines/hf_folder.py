"""Facts for a benchmark's rows about a model in a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from rowspan.bench.engines.model_facts import ModelFacts, count_text
from rowspan.bench.model_demand import Demand
from rowspan.checkpoint.fingerprint import fingerprint
from rowspan.errors import CheckpointError
from rowspan.model.families.registry import spec_of
from rowspan.model.hf_config import header_of_config
from rowspan.plan.rigs.demand import demand_of
from rowspan.plan.rigs.outline import outline_of_spec

CONFIG = "config.json"
SCHEMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def read_folder(folder: Path) -> tuple[ModelFacts, Demand | None, int]:
    """The model's facts, the least work that its tokens take, and its number of token ids. The work is None for a
    quantized model: its configuration does not tell how many bytes the weights take.

    Raises:
        CheckpointError: the folder lacks its configuration or its weights, or these say too little.
    """
    files = tuple(sorted(folder.glob("*.safetensors")))
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        config = json.loads(text)
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"Its {CONFIG} cannot be read: {error}.") from None
    if not files:
        raise _unusable(folder, "There are no .safetensors files in it.")
    spec = spec_of(header_of_config(text, folder.name))
    scheme = SCHEMES.get(str(config.get("dtype") or config.get("torch_dtype")))
    quantized = (config.get("quantization_config") or {}).get("quant_method")
    outline = outline_of_spec(spec, scheme or "BF16")
    label = str(quantized or scheme or "unknown").upper()
    facts = ModelFacts(
        path=folder,
        type=f"{spec.architecture} {count_text(outline.parameters).replace(' ', '')} {label}",
        size=sum(file.stat().st_size for file in files),
        n_params=outline.parameters,
        fingerprint=fingerprint(files),
        sha256=None,
    )
    if quantized or scheme is None:
        return facts, None, spec.vocab_size
    needed = demand_of(outline)
    demand = Demand(
        weight_bytes=needed.weight_bytes,
        layer_weights=needed.layer_weights,
        head_weights=needed.head_weights,
        cache_values=needed.cache_bytes // 2,
        query_values=needed.query_values,
    )
    return facts, demand, spec.vocab_size


def _unusable(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is no model that can be measured.",
        why=why,
        fix="Give the folder of a Hugging Face model, with config.json and safetensors, or a GGUF file.",
    )
