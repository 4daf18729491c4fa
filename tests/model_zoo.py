"""Networks of the shapes that people train, as plain modules, for tests and benchmarks.

At their default widths the convolutional ones have the layers of the published models. A smaller
width makes them small enough for a test. ``norm=False`` leaves batch normalization out and gives
every convolution a bias: the form that a network has after folding. Weights are drawn as in He et
al. 2015, from a generator; images have three channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def initialize(model: nn.Module, generator: torch.Generator | None) -> None:
    """He initialization; biases are zero, and normalizations stay as they are.

    Attention projections and positions are drawn with variance 1 / columns.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            read = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # here the kernel is as large as the stride
                read = module.in_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / read), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(("in_proj_weight", "out_proj.weight", "position", "token")):
            std = 1 / math.sqrt(parameter.shape[-1])
            nn.init.normal_(parameter, 0, std, generator=generator)


def _conv(
    n_in: int, n_out: int, size: int, *, norm: bool, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the positions, but for its stride; normalized or with a bias."""
    conv = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=not norm)
    return [conv, nn.BatchNorm2d(n_out)] if norm else [conv]


class ResidualBlock(nn.Module):
    """Two convolutions; the shortcut is projected where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(n_in, n_out, 3, norm=norm, stride=stride),
            nn.ReLU(inplace=True),
            *_conv(n_out, n_out, 3, norm=norm),
        )
        same = n_in == n_out and stride == 1
        projection = [] if same else _conv(n_in, n_out, 1, norm=norm, stride=stride)
        self.shortcut = nn.Sequential(*projection)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet18(
    width: int = 64,
    *,
    norm: bool = True,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """ResNet-18 (He et al. 2016)."""
    layers = [*_conv(3, width, 7, norm=norm, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(channels, width * 2**stage, stride, norm))
            channels = width * 2**stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    model = nn.Sequential(*layers)
    initialize(model, generator)
    return model


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project linearly."""

    def __init__(
        self, n_in: int, n_out: int, stride: int, expand: int, norm: bool, activation: Activation
    ) -> None:
        super().__init__()
        inner = n_in * expand
        layers = [*_conv(n_in, inner, 1, norm=norm), activation()] if expand > 1 else []
        layers += [*_conv(inner, inner, 3, norm=norm, stride=stride, groups=inner), activation()]
        self.body = nn.Sequential(*layers, *_conv(inner, n_out, 1, norm=norm))
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2(
    width: int = 32,
    *,
    norm: bool = True,
    activation: Activation = nn.ReLU,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018); theirs has ``activation=nn.ReLU6``."""

    def scaled(channels: int) -> int:
        return max(1, channels * width // 32)

    channels = scaled(32)
    layers = [*_conv(3, channels, 3, norm=norm, stride=2), activation()]
    for expand, wide, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for k in range(count):
            step = 1 if k else stride
            layers.append(InvertedResidual(channels, scaled(wide), step, expand, norm, activation))
            channels = scaled(wide)
    layers += [*_conv(channels, scaled(1280), 1, norm=norm), activation()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.Linear(scaled(1280), classes))
    initialize(model, generator)
    return model


class UNet(nn.Module):
    """Two convolutions a level, on the way down and, with the skipped maps, on the way up."""

    def __init__(self, width: int, depth: int, norm: bool, upsample: bool, classes: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(depth + 1)]
        self.down, self.up, self.enlarge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for n_in, n_out in zip([3, *widths], widths, strict=False):
            self.down.append(self.level(n_in, n_out, norm))
        for n_out, n_in in reversed(list(itertools.pairwise(widths))):
            if upsample:
                reduce = nn.Conv2d(n_in, n_out, 1)
                self.enlarge.append(nn.Sequential(nn.Upsample(scale_factor=2), reduce))
            else:
                self.enlarge.append(nn.ConvTranspose2d(n_in, n_out, 2, 2))
            self.up.append(self.level(2 * n_out, n_out, norm))
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, classes, 1)

    @staticmethod
    def level(n_in: int, n_out: int, norm: bool) -> nn.Sequential:
        first, second = _conv(n_in, n_out, 3, norm=norm), _conv(n_out, n_out, 3, norm=norm)
        return nn.Sequential(*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for level in self.down[:-1]:
            x = level(x)
            skipped.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            x = level(torch.cat([skipped.pop(), enlarge(x)], dim=1))
        return self.head(x)


def unet(
    width: int = 64,
    *,
    depth: int = 4,
    norm: bool = True,
    upsample: bool = False,
    classes: int = 2,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """U-Net (Ronneberger et al. 2015), padded; maps are enlarged by transposed convolutions.

    Or, with ``upsample``, by upsampling and a convolution. Height and width of an image have to be
    multiples of 2 ** depth.
    """
    model = UNet(width, depth, norm, upsample, classes)
    initialize(model, generator)
    return model


class DenseLayer(nn.Module):
    """Adds ``growth`` channels to those that it reads."""

    def __init__(self, n_in: int, growth: int, norm: bool) -> None:
        super().__init__()
        inner = 4 * growth
        self.body = nn.Sequential(
            *_normalized_relu(n_in, norm),
            nn.Conv2d(n_in, inner, 1, bias=not norm),
            *_normalized_relu(inner, norm),
            nn.Conv2d(inner, growth, 3, padding=1, bias=not norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def _normalized_relu(channels: int, norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()] if norm else [nn.ReLU()]


def densenet(
    blocks: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
    *,
    norm: bool = True,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """DenseNet-BC (Huang et al. 2017): by default DenseNet-121."""
    channels = 2 * growth
    layers = [*_conv(3, channels, 7, norm=norm, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for k, count in enumerate(blocks):
        for _ in range(count):
            layers.append(DenseLayer(channels, growth, norm))
            channels += growth
        if k < len(blocks) - 1:
            layers += _normalized_relu(channels, norm)
            layers.append(nn.Conv2d(channels, channels // 2, 1, bias=not norm))
            layers.append(nn.AvgPool2d(2))
            channels //= 2
    layers += [*_normalized_relu(channels, norm), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(channels, classes))
    initialize(model, generator)
    return model


class TransformerBlock(nn.Module):
    """Self-attention, then two linear layers on each token; both are added to the stream."""

    def __init__(self, dim: int, heads: int, hidden: int, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def attend(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_norm:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class TransformerEncoder(nn.Module):
    """Patches of an image as tokens, learned positions, blocks, and a head on one vector."""

    def __init__(
        self,
        dim: int,
        heads: int,
        depth: int,
        hidden: int,
        pre_norm: bool,
        class_token: bool,
        patch: int,
        image: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        tokens = (image // patch) ** 2 + class_token
        self.position = nn.Parameter(torch.zeros(1, tokens, dim))
        blocks = [TransformerBlock(dim, heads, hidden, pre_norm) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.position))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


def transformer_encoder(
    dim: int = 192,
    *,
    heads: int = 3,
    depth: int = 12,
    hidden: int | None = None,
    pre_norm: bool = True,
    class_token: bool = False,
    patch: int = 16,
    image: int = 224,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021) with ReLU: by default of the size "tiny".

    Args:
        dim: units of the stream.
        heads: attention heads, a divisor of ``dim``.
        depth: number of blocks.
        hidden: hidden units of each block; None means ``4 * dim``.
        pre_norm: normalize what a block reads rather than what it writes.
        class_token: read the output off a token of its own, not off the mean over tokens.
        patch: side of a patch.
        image: side of the square image that the positions are for.
        classes: number of outputs.
        generator: where the weights are drawn from.
    """
    hidden = 4 * dim if hidden is None else hidden
    model = TransformerEncoder(
        dim, heads, depth, hidden, pre_norm, class_token, patch, image, classes
    )
    initialize(model, generator)
    return model


class Residual(nn.Module):
    """Adds what its layers compute to what they read."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_mlp(
    width: int = 256,
    *,
    depth: int = 4,
    norm: bool = False,
    features: int = 64,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Fully connected residual blocks on a stream of ``width`` units; ``norm`` is before each."""
    layers: list[nn.Module] = [nn.Linear(features, width)]
    for _ in range(depth):
        first = [nn.LayerNorm(width)] if norm else []
        inner = [nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)]
        layers.append(Residual(*first, *inner))
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, classes))
    initialize(model, generator)
    return model
