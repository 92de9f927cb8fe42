"""First weights with which a stock AutoencoderKL is the best linear codec that its own layers can hold.

From there training only has to learn what is better than linear; from random weights it needs a hundred times as
long for the same. Two things stand in the way of a straight line through diffusers' layers, and first weights
alone set both aside.

GroupNorm: with one group, and with two channels of each stream held at +B and -B, mean and variance hardly depend on
the picture, and a weight of B sqrt(2 / channels) undoes the division. SiLU: silu(s) - silu(-s) = s, so that what
shall pass is held twice, with both signs. Residual blocks begin as the identity.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

HELD = 100.0  # B: what the last two channels of every stream hold, with either sign
NUM_SIGNALS = 14  # of the linear codec; each takes two channels of a stream


class LinearCodec(nn.Module):
    """Convolutions alone, shaped as the stock layers: strided ones padded right and below, nearest upsampling."""

    def __init__(self, levels: int, latent_channels: int) -> None:
        super().__init__()
        signals = NUM_SIGNALS
        self.first = nn.Conv2d(3, signals, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(signals, signals, 3, stride=2) for _ in range(levels))
        self.to_latent = nn.Conv2d(signals, latent_channels, 3, padding=1)
        self.from_latent = nn.Conv2d(latent_channels, signals, 3, padding=1)
        out = [signals] * (levels - 1) + [3]
        self.up = nn.ModuleList(nn.Conv2d(signals, channels, 3, padding=1) for channels in out)
        self.last = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.dirac_(self.last.weight)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """Pictures to latents."""
        field = self.first(pictures)
        for conv in self.down:
            field = conv(nn.functional.pad(field, (0, 1, 0, 1)))
        latents: Tensor = self.to_latent(field)
        return latents

    def decode(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to pictures."""
        field = self.from_latent(latents)
        for conv in self.up:
            field = conv(nn.functional.interpolate(field, scale_factor=2.0, mode="nearest"))
        pictures: Tensor = self.last(field)
        return pictures


def fit_linear(batch_of: Callable[[int], Tensor], levels: int, latent_channels: int, num_steps: int) -> LinearCodec:
    """The linear codec, trained for seconds on the batches [b, 3, h, w] of `batch_of(step)`."""
    codec = LinearCodec(levels, latent_channels).to(batch_of(0).device)
    rate = 4e-3
    optimizer = torch.optim.Adam(codec.parameters(), lr=rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 30, 2 * (1 - step / num_steps))
        pictures = batch_of(step)
        latents = codec.encode(pictures)
        error = (codec.decode(latents) - pictures).square().mean((1, 2, 3))
        loss = (error + 1e-3).log().mean() + 1e-2 * (latents.square().mean() - 1).square()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    return codec.requires_grad_(False)


@torch.no_grad()
def start(autoencoder: Any, codec: LinearCodec) -> None:
    """Put the codec into the autoencoder: signal j lies in channels 2j (as it is) and 2j + 1 (negated) of a stream."""
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    downsamplers = [block.downsamplers[0].conv for block in encoder.down_blocks if block.downsamplers]
    upsamplers = [block.upsamplers[0].conv for block in decoder.up_blocks if block.upsamplers]
    for module in autoencoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.fill_(HELD * (2 / module.num_channels) ** 0.5)
            module.weight[-2:] = 0.0  # nothing reads what is held
            module.bias.zero_()
        elif module.__class__.__name__ == "ResnetBlock2D":
            _identity(module)
    for conv in (encoder.conv_in, *downsamplers, decoder.conv_in, *upsamplers):
        conv.bias.zero_()
        _hold(conv)
    _carry(encoder.conv_in, codec.first, columns=slice(None))
    _carry(decoder.conv_in, codec.from_latent, columns=slice(None))
    for targets, sources in ((downsamplers, codec.down), (upsamplers, codec.up)):
        for target, source in zip(targets, sources, strict=True):
            assert isinstance(source, nn.Conv2d)
            target.weight[:, -2:] = 0  # written anew by this layer, not read
            _carry(target, source, columns=slice(0, 2 * source.in_channels, 2))
    latent_channels = codec.to_latent.out_channels
    _read(encoder.conv_out, codec.to_latent, latent_channels)
    encoder.conv_out.bias[latent_channels:] = -6.0  # log-variance: a standard deviation of 0.05
    _read(decoder.conv_out, codec.last, 3)
    for conv in (autoencoder.quant_conv, autoencoder.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()


def _identity(block: Any) -> None:
    """A residual block that passes its stream on, narrowed where it must be."""
    block.conv2.weight.zero_()
    block.conv2.bias.zero_()
    _hold(block.conv1)
    if block.conv_shortcut is not None:
        weight = block.conv_shortcut.weight
        nn.init.orthogonal_(weight)
        kept = min(weight.shape[0], weight.shape[1]) - 2
        weight[:kept] = 0
        weight[:, -2:] = 0
        weight[range(kept), range(kept)] = 1
        block.conv_shortcut.bias.zero_()
        _hold(block.conv_shortcut)


def _hold(conv: nn.Conv2d) -> None:
    """The last two channels of what the layer writes are constant."""
    assert conv.bias is not None
    conv.weight[-2:] = 0
    conv.bias[-2:] = conv.bias.new_tensor([HELD, -HELD])


def _carry(target: nn.Conv2d, source: nn.Conv2d, columns: slice) -> None:
    """The signals that `source` computes, with both signs, from the given columns of the stream."""
    assert target.bias is not None
    assert source.bias is not None
    for sign, offset in ((1, 0), (-1, 1)):
        rows = slice(offset, 2 * source.out_channels, 2)
        target.weight[rows] = 0
        target.weight[rows, columns] = sign * source.weight
        target.bias[rows] = sign * source.bias


def _read(target: nn.Conv2d, source: nn.Conv2d, outputs: int) -> None:
    """The outputs that `source` computes, behind a SiLU; what it does not read yet it reads a little."""
    assert target.bias is not None
    assert source.bias is not None
    used = 2 * source.in_channels
    target.weight.zero_()
    target.weight[:, used:-2].normal_(0, 1e-3)
    target.weight[:outputs, 0:used:2] = source.weight
    target.weight[:outputs, 1:used:2] = -source.weight
    target.bias.zero_()
    target.bias[:outputs] = source.bias


def keep_held(autoencoder: Any) -> None:
    """Whatever is trained from now on: the constant channels stay what they are, and nothing reads them.

    Weights that read a constant of 100 would get a gradient of a hundred times the others' and lose what was won.
    """
    last = {id(autoencoder.encoder.conv_out), id(autoencoder.decoder.conv_out)}
    last |= {id(autoencoder.quant_conv), id(autoencoder.post_quant_conv)}
    held, everything = slice(-2, None), slice(None)
    for module in autoencoder.modules():
        if isinstance(module, nn.GroupNorm):
            _still(module.weight, held)
            _still(module.bias, held)
        elif isinstance(module, nn.Conv2d):
            if id(module) not in last:
                _still(module.weight, held)
                _still(module.bias, held)
            if module.in_channels > 2 * NUM_SIGNALS:
                _still(module.weight, (everything, held))


def _still(parameter: Any, place: Any) -> None:
    """No gradient reaches the given part of a parameter."""
    mask = torch.ones_like(parameter)
    mask[place] = 0
    parameter.register_hook(lambda gradient: gradient * mask)
