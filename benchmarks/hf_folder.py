"""Makes the Hugging Face folder that vLLM reads out of a GGUF file: weights dequantized to bfloat16, and the tokenizer.

    python benchmarks/hf_folder.py model.gguf folder

Needs the packages transformers, accelerate and gguf (rowspan[test]).
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(model: Path, folder: Path) -> None:
    """Write the folder, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.bfloat16)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config  # says GGUF, which the weights are no more
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)  # one that may be saved
    plain.load_state_dict(read.state_dict())
    unfinished = folder.with_name(folder.name + ".unfinished")
    plain.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name).save_pretrained(unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
