"""Large tensors piece by piece: what is made on the way stays small, and in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

__all__ = ["pieces"]

_ENTRIES = 2**18  # 2 MB in float64


def pieces(shape: Sequence[int], dims: int | None = None) -> Iterator[tuple[slice, ...]]:
    """Indices that cut a tensor along one dimension into pieces of about 2 MB in float64.

    Args:
        shape: of the tensor.
        dims: how many dimensions, counted from the first, may be cut; None for all. The longest
            of them is.

    Yields:
        A slice for each dimension up to that one. A small tensor is one piece.
    """
    cut = max(range(len(shape) if dims is None else dims), key=shape.__getitem__)
    rest = math.prod((*shape[:cut], *shape[cut + 1 :]))
    step = max(1, _ENTRIES // max(rest, 1))
    for start in range(0, max(shape[cut], 1), step):
        yield (*(slice(None),) * cut, slice(start, start + step))
