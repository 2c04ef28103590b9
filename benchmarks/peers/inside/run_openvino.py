"""Measures OpenVINO GenAI; runs in its interpreter. Every call has new random tokens: it keeps prefixes."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import openvino
import openvino_genai

VOCABULARY = range(300, 20000)  # ordinary tokens of every model that is measured


def main() -> None:
    job = json.loads(sys.argv[1])
    pipeline = openvino_genai.LLMPipeline(job["model"], "CPU", INFERENCE_NUM_THREADS=job["threads"])
    random = np.random.default_rng(0)

    def generate(n_prompt: int, n_gen: int, n_sequences: int) -> Any:
        tokens = random.integers(VOCABULARY.start, VOCABULARY.stop, (n_sequences, n_prompt), np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = n_gen
        config.ignore_eos = True
        config.do_sample = False
        return pipeline.generate(inputs, config).perf_metrics

    def rate(n_prompt: int, n_gen: int, n_depth: int, n_sequences: int) -> float:
        if not n_gen:  # milliseconds to the first token
            generate(n_prompt, 1, 1)
            return float(n_prompt * 1e3 / generate(n_prompt, 1, 1).get_ttft().mean)
        context = max(1, n_depth + n_prompt)  # milliseconds per token after the first, over all sequences
        generate(1, 2, n_sequences)
        return float(1e3 / generate(context, n_gen + 1, n_sequences).get_tpot().mean)

    print(json.dumps({"rates": [rate(**figure) for figure in job["figures"]]}))


main()
