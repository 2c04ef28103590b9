"""What a step gives back, from tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def hidden_on_host(hidden: Tensor | None, rows: NDArray[np.int64] | None) -> NDArray[np.float32] | None:
    """Copy some rows of the hidden states to the host's memory, in float32, and wait for them. None: nobody asked."""
    if hidden is None or rows is None:
        return None
    wanted = hidden.index_select(0, torch.from_numpy(rows).to(hidden.device))
    array: NDArray[np.float32] = wanted.float().cpu().numpy()
    return array
