"""What gpu_vs_llamacpp.py consists of."""
