"""Exercises of chapter 14, on real networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from balancing.exercises._answers import Wrong, call, choose, gaussian, matrix


def _stream_invariants(answer: Any) -> str:
    """14.1: the invariants of a residual stream between batch norms and layers that read it."""
    for seed, channels in ((0, 4), (1, 3)):
        generator = torch.Generator().manual_seed(seed)
        shapes = ((6, channels, 3, 3), (5, channels, 1, 1), (10, channels))
        readers = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
        rows = gaussian(seed, *[(1, channels)] * 6)
        gains, shifts = [g[0] for g in rows[:3]], [b[0] for b in rows[3:]]
        given = call(
            answer, *([each.clone() for each in group] for group in (gains, shifts, readers))
        )
        if not isinstance(given, Tensor) or given.shape != (channels,):
            raise Wrong(f"One number a channel is asked for: a tensor of shape ({channels},).")
        into = torch.stack([*gains, *shifts]).square().sum(0)
        taps = [w.flatten(2) if w.dim() > 2 else w.unsqueeze(2) for w in readers]
        out = torch.stack([w.square().sum((0, 2)) for w in taps]).sum(0)
        if torch.allclose(given, into - out):
            continue
        for typical, hint in (
            (out - into, "The sign is reversed: incoming minus outgoing."),
            (
                torch.stack(gains).square().sum(0) - out,
                "The shifts are missing: they are rescaled with the gains.",
            ),
            (
                torch.stack(gains).sum(0).square() + torch.stack(shifts).sum(0).square() - out,
                "Each gain is a weight of its own: square first, then sum.",
            ),
            (
                gains[0].square() + shifts[0].square() - out,
                "Every batch norm whose output is added to the stream writes to its channels.",
            ),
            (into - taps[0].square().sum((0, 2)), "Every layer that reads the stream counts."),
        ):
            if torch.allclose(given, typical):
                raise Wrong(hint)
        raise Wrong(
            "Which weights are multiplied, and which divided, when a channel of the stream gets a "
            "factor? Subtract the squares of these from the squares of those."
        )
    return "All that writes to a channel, minus all that reads it."


def _block_factors(answer: Any) -> str:
    """14.2: the factors that balance a depthwise block between frozen ends."""
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        shapes = ((6, 3, 1, 1), (6, 1, 3, 3), (2, 6, 1, 1))
        weights = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
        try:
            a, b = call(answer, *(w.clone() for w in weights))
        except (TypeError, ValueError):
            raise Wrong("A pair (a, b) of tensors is asked for.") from None
        a, b = matrix(a, (6,)), matrix(b, (6,))
        expand, depthwise, project = (w.square() for w in weights)
        into, through, out = expand.sum((1, 2, 3)), depthwise.sum((1, 2, 3)), project.sum((0, 2, 3))
        level = (into * through * out) ** (1 / 3)
        right = (level / into).sqrt(), (out / level).sqrt()
        if torch.allclose(a, right[0]) and torch.allclose(b, right[1]):
            continue
        for typical, hint in (
            ((right[0] ** 2, right[1] ** 2), "These are the squares of the factors."),
            ((1 / right[0], 1 / right[1]), "It is the other way round: incoming times the factor."),
            (
                ((through / into) ** 0.25, (out / through) ** 0.25),
                "That balances each unit as if the other kept factor 1. The depthwise filter "
                "belongs to both: solve for both at once.",
            ),
            (
                (right[0], right[1] / right[0]),
                "a is right. The depthwise filter is multiplied by b / a; you gave that, not b.",
            ),
        ):
            if torch.allclose(a, typical[0]) and torch.allclose(b, typical[1]):
                raise Wrong(hint)
        raise Wrong(
            "a^2 in, (b / a)^2 through and out / b^2 are not equal, of the squared norms in, "
            "through and out. What is the product of the three?"
        )
    return "The three squared norms of every channel are equal, in one step."


def _head_invariant(answer: Any) -> str:
    """14.3: the matrix that the query and key weights of an attention head conserve."""
    for seed, units, width in ((0, 3, 5), (1, 2, 4)):
        query, key = gaussian(seed, (units, width), (units, width))
        given = call(answer, query.clone(), key.clone())
        right = query @ query.T - key @ key.T
        if isinstance(given, Tensor) and given.shape == (width, width):
            raise Wrong(
                f"This is {width} x {width}. The units of the head can be mixed, not its inputs: "
                f"the matrix is {units} x {units}."
            )
        if isinstance(given, Tensor) and given.shape == (units,):
            raise Wrong("That is the diagonal. Units of a linear layer can also be mixed.")
        given = matrix(given, (units, units))
        if torch.allclose(given, right):
            continue
        for typical, hint in (
            (-right, "The sign is reversed: queries minus keys."),
            (query @ query.T + key @ key.T, "What multiplies the queries divides the keys."),
            (right.diag().diag(), "Right on the diagonal. Units can also be mixed."),
            (query @ key.T, "That is a product of both. Write G query and G^-T key with G near 1."),
        ):
            if torch.allclose(given, typical):
                raise Wrong(hint)
        raise Wrong(
            "Compare with a linear hidden layer: the keys play the part of the outgoing weights, "
            "transposed."
        )
    return "A symmetric matrix for each head, as for a linear hidden layer."


def _free_units(answer: Any) -> str:
    """14.4: which units may be rescaled."""
    right = {
        "outputs of a batch norm, before a ReLU and a convolution",
        "channels of a residual stream between batch norms",
        "hidden units of a transformer's feed-forward part",
        "channels of a U-Net that are read again through a concatenation",
        "channels before a depthwise convolution in a block without normalization",
    }
    wrong = {
        "outputs of a convolution that a batch norm reads": "The normalization takes the factor "
        "out in training mode, so nothing behind it could make up for it.",
        "outputs of a layer norm that attention reads": "Attention multiplies what it reads and "
        "passes it through a softmax: no factor passes.",
        "hidden units that pass through a tanh": "tanh(a z) is not a tanh(z): no factor passes.",
        "logits": "Nothing reads the outputs that could make up for a factor: the function would "
        "change.",
    }
    choose(
        answer,
        right,
        wrong,
        "Sums tie units and concatenations give them columns; neither stops a factor.",
    )
    return "The other four are read by something that a factor cannot pass, or by nothing."


CHECKS: dict[str, Callable[[Any], str]] = {
    "14.1": _stream_invariants,
    "14.2": _block_factors,
    "14.3": _head_invariant,
    "14.4": _free_units,
}
