"""Pictures as they would be in another light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.settings import SettingsError


@dataclass
class Photometric:
    """Drawn evenly at each call, once for all of its images: the light's strength within 1 +- exposure, that of each channel
    within 1 +- tint on top of it, and the exponent of intensity within 1 +- gamma. Zeros leave pictures as they are."""

    exposure: float = 0.0
    tint: float = 0.0
    gamma: float = 0.0

    def __post_init__(self):
        """Raises SettingsError."""
        if not all(0.0 <= value < 1.0 for value in vars(self).values()):
            raise SettingsError(f"{self}: each from 0 to below 1 is needed")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """images (N, H, W, 3) uint8 -> the same shape."""
        gain = (1 + rng.uniform(-self.exposure, self.exposure)) * (1 + rng.uniform(-self.tint, self.tint, 3))
        light = np.clip(np.arange(256)[:, None] / 255 * gain, 0.0, 1.0) ** (1 + rng.uniform(-self.gamma, self.gamma))
        table = np.round(255 * light).astype(np.uint8)
        return cv2.LUT(images.reshape(-1, *images.shape[2:]), table[None]).reshape(images.shape)
