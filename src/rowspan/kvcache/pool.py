"""The tensors behind the paged cache: one rank's layers and KV heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rowspan.kernels.ops import LayerCache


def allocate_pool(
    n_layers: int,
    n_blocks: int,
    block_size: int,
    kv_heads: int,
    head_dim: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    device: torch.device,
) -> Sequence[LayerCache]:
    """Caches of `n_layers` layers, (n_blocks · block_size, kv_heads, head_dim) for keys and for values.

    The memory is not touched: on CPUs the system hands out pages only as blocks are first written.
    """
    shape = (n_blocks * block_size, kv_heads, head_dim)
    return [
        LayerCache(
            torch.empty(shape, dtype=dtypes[0], device=device), torch.empty(shape, dtype=dtypes[1], device=device)
        )
        for _ in range(n_layers)
    ]
