"""A matrix as its file holds it, in the form in which the loader hands it to kernels whatever the file's format. No
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan.errors import UnsupportedModelError
from rowspan.quant.scheme import GEOMETRIES

BLOCKS = "blocks"


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A (rows, columns) matrix, or a rank's cut of one: its scheme's name, and the arrays that it consists of, by name.

    The scheme determines which parts there are, and their shapes (`rowspan.quant.dequantize`). GGUF's schemes have one:
    BLOCKS, uint8 (rows, bytes per row), whose rows may lie apart. Others have codes, scales and zero points as separate
    parts.

    row_scales: (rows,) factors of rows' products, from a tensor of their own; None: all 1.
    """

    scheme: str
    rows: int
    columns: int
    parts: Mapping[str, NDArray[Any]]
    row_scales: NDArray[np.float32] | None = None

    @classmethod
    def of_blocks(cls, scheme: str, blocks: NDArray[np.uint8]) -> StoredMatrix:
        """A matrix in one of GGUF's schemes. Raises ValueError if rows are not whole blocks."""
        return cls(scheme, blocks.shape[0], GEOMETRIES[scheme].columns(blocks.shape[1]), {BLOCKS: blocks})

    @property
    def blocks(self) -> NDArray[np.uint8]:
        """The blocks, for kernels that can read nothing else.

        Raises:
            UnsupportedModelError: the scheme has other parts.
        """
        if BLOCKS not in self.parts:
            raise UnsupportedModelError(
                f"Weights of the scheme {self.scheme} cannot be packed for this device.",
                why=f"They are stored as {', '.join(self.parts)}, not in blocks.",
                fix="Choose another quantization of this model.",
            )
        blocks: NDArray[np.uint8] = self.parts[BLOCKS]
        return blocks

    def in_parts(self, count: int) -> list[StoredMatrix]:
        """The matrix as `count` matrices of equally many rows, one below the other."""
        return [self._rows(slice(self.rows * part // count, self.rows * (part + 1) // count)) for part in range(count)]

    def rows_of_each(self, count: int, first: int, rows: int) -> StoredMatrix:
        """Of `count` matrices, one below the other, the same rows of each one: a copy, unless these are all rows."""
        each = self.rows // count
        if rows == each:
            return self
        width = self.blocks.shape[1]
        of_each = self.blocks.reshape(count, each, width)[:, first : first + rows]
        part = StoredMatrix.of_blocks(self.scheme, np.ascontiguousarray(of_each).reshape(count * rows, width))
        if self.row_scales is None:
            return part
        return part.scaled(self.row_scales.reshape(count, each)[:, first : first + rows].flatten())

    def padded(self, count: int, multiple: int) -> StoredMatrix:
        """Of `count` matrices, one below the other, each with rows of zeros added to make a multiple of `multiple`."""
        rows = self.rows // count if count else 0
        missing = -rows % multiple
        if not missing or self.is_empty:
            return self
        padded = np.zeros((count, rows + missing, self.blocks.shape[1]), np.uint8)
        padded[:, :rows] = self.blocks.reshape(count, rows, -1)
        whole = StoredMatrix.of_blocks(self.scheme, padded.reshape(count * (rows + missing), -1))
        if self.row_scales is None:
            return whole
        return whole.scaled(np.pad(self.row_scales.reshape(count, rows), ((0, 0), (0, missing))).flatten())

    def scaled(self, row_scales: NDArray[np.float32]) -> StoredMatrix:
        """The same matrix with factors (rows,) of its rows' products."""
        return replace(self, row_scales=row_scales)

    def _rows(self, rows: slice) -> StoredMatrix:
        part = StoredMatrix.of_blocks(self.scheme, self.blocks[rows])
        return part if self.row_scales is None else part.scaled(self.row_scales[rows])

    @property
    def is_empty(self) -> bool:
        return not self.rows or not self.columns

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())
