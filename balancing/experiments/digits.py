"""The handwritten digits of scikit-learn: 1,797 images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["digits"]


def digits(*, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images and their classes, in scikit-learn's order.

    The pixels, whole numbers from 0 to 16 in the file, are divided by 16. The file comes with
    scikit-learn; nothing is downloaded. Source: Alpaydin and Kaynak, UCI Machine Learning
    Repository, 1998.

    Args:
        dtype: of the images.

    Returns:
        Images, shape (1797, 1, 8, 8), between 0 and 1; classes, shape (1797,), int64.

    Raises:
        TypeError: ``dtype`` is no dtype.
        ValueError: it is not a floating-point one of at least 16 bits.
        ImportError: scikit-learn is not installed; the message says how to install it.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"dtype must be a floating-point one of at least 16 bits, got {dtype}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn; install it with: pip install scikit-learn"
        ) from error
    data = load_digits()
    return torch.tensor(data.images, dtype=dtype)[:, None] / 16, torch.tensor(data.target)
