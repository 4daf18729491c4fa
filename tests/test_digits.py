"""The digits: what arrives is what scikit-learn holds."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_digits

from balancing.experiments.digits import digits


def test_images_and_classes() -> None:
    images, classes = digits(dtype=torch.float64)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float64
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(images[5].flatten() * 16, torch.tensor(load_digits().data[5]))
    assert classes.tolist() == load_digits().target.tolist()
    assert digits()[0].dtype == torch.float32


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        digits()
