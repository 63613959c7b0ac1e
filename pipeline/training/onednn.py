"""The network on a CPU, in the memory layout that is fastest for oneDNN.

oneDNN, which computes PyTorch's convolutions on x86, keeps channels in blocks of 8 or 16. It
converts channels_last tensors to and from these, and PyTorch runs BatchNorm and pooling in slower
code. Here oneDNN runs everything up to the fully connected layers, in its own layout: training is
1.3 to 1.4 times as fast, on one thread 1.5 times (docs/LOG.md).
"""

import platform
from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import get_total_norm

from pipeline.training.network import CNNNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COINS_PER_WORD = 63  # random bits in an int64 as `random_` draws them


@cache
def is_available(precision: str) -> bool:
    """Return whether this processor supports this. Only x86 was tried."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    image = torch.zeros(1, 1, 1, 1, dtype=DTYPES[precision])
    try:
        _convolution(image.to_mkldnn(), torch.zeros(1, 1, 3, 3, dtype=image.dtype), None)
    except RuntimeError:  # the processor has no bf16, or PyTorch no oneDNN
        return False
    return True


def fits(network: nn.Module) -> TypeGuard[CNNNetwork]:
    """Whether a network's layers are exactly those that `BlockedNetwork` computes.

    A subclass, or one in which a layer was replaced, may compute something else.
    """
    if type(network) is not CNNNetwork or network._forward_pre_hooks or network._forward_hooks:
        return False
    first, last, dropout = network.conv1, network.fc2, network.dropout
    if not (isinstance(first, nn.Conv2d) and isinstance(last, nn.Linear)):
        return False
    with torch.device("meta"):  # which draws no random numbers
        plain = CNNNetwork(
            num_classes=last.out_features,
            in_channels=first.in_channels,
            image_size=network.image_size,
            batch_norm=isinstance(network.bn1, nn.BatchNorm2d),
        )
    if type(dropout) is nn.Dropout:
        plain.dropout = dropout
    return repr(network) == repr(plain)


class BlockedNetwork(nn.Module):
    """A network that shares the weights and mode of `network` and computes the same.

    Only rounding and dropout's random numbers differ. With `precision="bf16"` it computes in bf16
    what autocast would, and the results of BatchNorm and pooling are also bf16.

    Input and output are those of `network`, on the CPU.
    """

    def __init__(self, network: CNNNetwork, precision: str) -> None:
        super().__init__()
        self.network = network
        self.dtype = DTYPES[precision]
        net = network
        layers = (net.conv1, net.bn1, net.conv2, net.bn2, net.conv3, net.bn3)
        numbers = [tensor for layer in layers for tensor in layer.state_dict().values()]
        self.below_pooling = [tensor for tensor in numbers if tensor.is_floating_point()]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        net, dtype = self.network, self.dtype
        x = x.to(dtype).contiguous().to_mkldnn()
        for conv, norm in ((net.conv1, net.bn1), (net.conv2, net.bn2), (net.conv3, net.bn3)):
            assert conv.bias is not None
            weight, bias = conv.weight.to(dtype).contiguous(), conv.bias.to(dtype)
            x = _convolution(x, weight, bias)
            x = net.pool(norm(torch.relu_(x)))
        x = net.flatten(x.to_dense())
        x = torch.relu_(linear(x, net.fc1.weight.to(dtype), net.fc1.bias.to(dtype)))
        half = net.training and isinstance(net.dropout, nn.Dropout) and net.dropout.p == 0.5
        x = drop_half(x) if half else net.dropout(x)
        logits = linear(x, net.fc2.weight.to(dtype), net.fc2.bias.to(dtype))
        # oneDNN's ReLU and pooling treat NaN as a small number, which would hide a NaN in a weight
        # or running statistic below them. The norm of those tensors is then NaN too.
        return logits + 0 * get_total_norm(self.below_pooling)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Not conv2d, which refuses a oneDNN tensor with weights in PyTorch's own layout.
    return torch.mkldnn_convolution(
        x, weight, bias, padding=(1, 1), stride=(1, 1), dilation=(1, 1), groups=1
    )


def drop_half(x: Tensor) -> Tensor:
    """Apply Dropout(0.5), with a mask of one random bit per element.

    PyTorch draws a random number for each, on one thread, which takes a twelfth of a step.
    """
    words = torch.empty(-(-x.numel() // COINS_PER_WORD), dtype=torch.int64).random_()
    coins = (words.unsqueeze(1) >> torch.arange(COINS_PER_WORD)) & 1
    return x * (2 * coins.flatten()[: x.numel()].view_as(x))
