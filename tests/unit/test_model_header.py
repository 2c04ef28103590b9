"""What a header says of its layers is read once, however many it claims to have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rowspan.errors import CheckpointError
from rowspan.model.families.registry import spec_of
from rowspan.model.header import ModelHeader

N_LAYERS = 40


class Counted(list[int]):
    """An array that counts how often it is gone through."""

    times = 0

    def __iter__(self) -> Iterator[int]:
        self.times += 1
        return super().__iter__()


def header(heads: list[int]) -> ModelHeader:
    sizes = {
        "block_count": N_LAYERS,
        "embedding_length": 64,
        "context_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": heads,
        "attention.head_count_kv": 2,
    }
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    return ModelHeader(metadata, vocab_size=10, tied=True, for_planning=True)


def test_an_array_of_sizes_is_gone_through_once() -> None:
    heads = Counted([4, 8] * (N_LAYERS // 2))
    spec = spec_of(header(heads))
    assert [layer.mixer.n_heads for layer in spec.layers] == list.copy(heads)
    assert heads.times == 1


@pytest.mark.parametrize("heads", [[4] * (N_LAYERS - 1), [4] * (N_LAYERS - 1) + [-1], [True] * N_LAYERS])
def test_an_array_that_is_no_sizes_is_refused(heads: list[int]) -> None:
    with pytest.raises(CheckpointError, match="has no size for each"):
        spec_of(header(heads))
