"""OFA's image backbone: the first three stages of a ResNet v1.5 with bottleneck blocks (He et al., 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OUTPUT_CHANNELS = 1024


class DropPath(nn.Module):
    """Stochastic depth: while training, drops the whole residual branch of a sample with probability ``rate``."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with the batch first; unchanged when evaluating."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * mask / keep


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolution around a shortcut; four times ``width`` channels out."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 4 * width, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(shortcut + self.drop_path(x))


class ResNet(nn.Module):
    """Pixels [B, 3, S, S] to features [B, 1024, S / 16, S / 16]."""

    def __init__(self, blocks: tuple[int, int, int], drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self._stage(64, 64, blocks[0], 1, drop_path)
        self.layer2 = self._stage(256, 128, blocks[1], 2, drop_path)
        self.layer3 = self._stage(512, 256, blocks[2], 2, drop_path)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels: int, width: int, count: int, stride: int, drop_path: float) -> nn.Sequential:
        rates = torch.linspace(0, drop_path, count, device="cpu").tolist()
        blocks = [Bottleneck(channels, width, stride, 0.0)]  # a stage's first block is never dropped, as in OFA
        blocks += [Bottleneck(width * Bottleneck.expansion, width, 1, rates[i]) for i in range(1, count)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] to [B, 1024, S / 16, S / 16]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))
