"""Vision encoders: images (N, H, W, 3) uint8 -> feature grid (N, P, P, width)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.attention import TransformerLayer
from agent.pretrained import PretrainedError, load, preprocessor
from agent.projectors import head_count


def to_unit(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in [-1, 1]; the one place where pixels are scaled."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class GroupNorm(nn.GroupNorm):
    """As PyTorch's (Wu and He 2018), which on a CPU takes ten times as long where the channels lie last, as convolutions
    like them. Its tensors have the same names. (N, C, H, W) -> the same."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels)
        mean = torch.block_diag(*torch.full((groups, channels // groups, channels // groups), groups / channels))
        self.register_buffer("mean_of_groups", mean, persistent=False)  # (C, C)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
            middle = pixels[:, :1].detach().float() @ self.mean_of_groups
            pixels = pixels - middle.to(x.dtype)  # changes nothing but what rounding does far from zero
            moments = torch.stack([pixels.mean(1, dtype=torch.float32), (pixels * pixels).mean(1, dtype=torch.float32)])
            mean, square = moments @ self.mean_of_groups
            scale = (square - mean * mean + self.eps).rsqrt() * self.weight
            scale, shift = (part[:, None].to(x.dtype) for part in (scale, self.bias - mean * scale))
            return torch.addcmul(shift, pixels, scale).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """3x3 convolution, group norm, SiLU; with a skip where the shape stays (He et al. 2016)."""

    def __init__(self, width_in: int, width: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm = GroupNorm(8, width)
        self.act = nn.SiLU()
        self.skip = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x)))
        return x + y if self.skip else y


class NativeViT(nn.Module):
    """A vision transformer on a convolutional stem ("Early convolutions help transformers see better", Xiao et al.
    2021): the stem reduces pixels 8 times, one step more gives the grid that `depth` transformer layers mix, and what
    they found is added back to the stem's finer grid (a feature pyramid, Lin et al. 2017), where small things are told
    apart and placed.

    forward: uint8 (N, S, S, 3) -> (N, S/8, S/8, width). The coarse grid has learned 2-D positions.
    """

    def __init__(self, image_size: int, first: int = 32, width: int = 48, inner: int = 96, depth: int = 1,
                 blocks: int = 2):
        super().__init__()
        if image_size % 16:
            raise ValueError(f"image_size {image_size}: a multiple of 16 is needed")
        self.image_size, self.width, self.grid = image_size, width, image_size // 8
        self.stem = nn.Sequential(nn.Conv2d(3, first, 4, stride=4), nn.SiLU(), ConvBlock(first, width, 2),
                                  *(ConvBlock(width, width) for _ in range(blocks)))
        self.down = ConvBlock(width, inner, 2)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid // 2, self.grid // 2, inner))
        layer = TransformerLayer(inner, head_count(inner, 32), 2 * inner, 0.0, nn.functional.gelu, batch_first=True,
                                 norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.up = nn.Linear(inner, width)
        self.mix = ConvBlock(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.stem(to_unit(images).contiguous(memory_format=torch.channels_last))
        coarse = self.down(fine).permute(0, 2, 3, 1) + self.position
        coarse = self.up(self.layers(coarse.flatten(1, 2))).view(*coarse.shape[:3], -1)
        fine = fine + nn.functional.interpolate(coarse.permute(0, 3, 1, 2), scale_factor=2.0)
        return self.norm(self.mix(fine).permute(0, 2, 3, 1))


class HuggingFaceVision(nn.Module):
    """Any local Hugging Face vision model with patch tokens (SigLIP, CLIP, DINOv2/v3 ...), as `AutoModel` loads it.

    `path` is a local directory in the hub's format; nothing is downloaded. Images are resized to the size that the
    checkpoint names, whatever `image_size` they arrive in, and normalised with its preprocessor's mean and deviation.
    Class and register tokens are dropped.
    forward: uint8 (N, H, W, 3) -> (N, P, P, width).
    """

    def __init__(self, path: str, image_size: int | None = None, train: bool = False):
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel

        model = load(AutoModel, path)
        self.model = getattr(model, "vision_model", model)
        self.model.requires_grad_(train)
        config = getattr(model.config, "vision_config", model.config)
        if missing := [name for name in ("image_size", "patch_size", "hidden_size") if not hasattr(config, name)]:
            raise PretrainedError(f"{path}: a {config.model_type} has no {', '.join(missing)}; a vision transformer with one "
                                  "square grid of patches is needed, as ViT, SigLIP, CLIP and DINO")
        self.image_size, self.width = config.image_size, config.hidden_size
        self.grid = config.image_size // config.patch_size
        pixels = preprocessor(AutoImageProcessor, path)
        self.register_buffer("mean", torch.tensor(pixels.image_mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(pixels.image_std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        unit = to_unit(images) * 0.5 + 0.5
        size = (self.image_size, self.image_size)
        if unit.shape[-2:] != size:
            unit = nn.functional.interpolate(unit, size, mode="bicubic", antialias=True).clamp(0, 1)
        tokens = self.model(pixel_values=(unit - self.mean) / self.deviation).last_hidden_state
        patches = tokens[:, tokens.shape[1] - self.grid**2 :]
        return patches.view(len(images), self.grid, self.grid, self.width)
