"""llama-server's own API: completions, filling in the middle, slots.

https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""
