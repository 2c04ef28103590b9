"""Measures vLLM's CPU build; runs in its interpreter."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

VOCABULARY = range(300, 20000)  # ordinary tokens of every model that is measured


def converted(model: Path) -> Path:
    """The weights as vLLM reads them: dequantized, in a folder beside the GGUF file."""
    sys.path.append(str(Path(__file__).parents[2]))
    from hf_folder import convert

    folder = model.with_suffix(".hf")
    if not folder.exists():
        convert(model, folder)
    return folder


def main() -> None:
    job = json.loads(sys.argv[1])
    cores = sorted(os.sched_getaffinity(0))[: job["threads"]]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    folder = converted(Path(job["model"]))

    import numpy as np
    from vllm import LLM, SamplingParams

    random = np.random.default_rng(0)
    longest = max(f["n_depth"] + f["n_prompt"] + f["n_gen"] for f in job["figures"])
    llm: Any = LLM(
        str(folder), skip_tokenizer_init=True, dtype="bfloat16", enable_prefix_caching=False, max_model_len=longest + 32
    )

    def seconds(n_prompt: int, n_gen: int, n_sequences: int) -> float:
        prompts = [
            {"prompt_token_ids": random.integers(VOCABULARY.start, VOCABULARY.stop, n_prompt).tolist()}
            for _ in range(n_sequences)
        ]
        params = SamplingParams(max_tokens=n_gen, temperature=0, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started

    def rate(n_prompt: int, n_gen: int, n_depth: int, n_sequences: int) -> float:
        context = max(1, n_depth + n_prompt)
        first = min(seconds(context, 1, n_sequences) for _ in range(2))
        if not n_gen:
            return n_prompt / first
        return n_sequences * n_gen / (seconds(context, n_gen + 1, n_sequences) - first)

    print(json.dumps({"rates": [rate(**figure) for figure in job["figures"]]}))


if __name__ == "__main__":  # vLLM starts its engine in a new process, which imports this file again
    main()
