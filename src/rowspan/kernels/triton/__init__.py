"""The ops in Triton, one source for NVIDIA's and AMD's cards. `kernels/torch` is their oracle."""
