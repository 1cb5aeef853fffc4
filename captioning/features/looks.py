"""How the images of a feature store look: whole or randomly cropped, as they are, mirrored or enlarged. No Keras."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioning.pictures.loading import MIRRORED, PREPROCESSING, VIEWS, load_image, load_varied, view
from captioning.pictures.opening import Tell
from config import TrainingSettings


@dataclass(frozen=True)
class Look:
    """All that decides how the images of a feature store look, but for their size in pixels.

    view: a number of ``VIEWS`` in captioning/pictures/loading.py, such as MIRRORED.
    crop: the number of the random crop, from 1; 0 for the whole image.
    share, colour_jitter, erase: the settings crop, colour_jitter and erase; only a random crop uses them.
    """

    view: int = 0
    crop: int = 0
    share: float = 1.0
    colour_jitter: float = 0.0
    erase: float = 0.0

    @property
    def mirrored(self) -> bool:
        return self.view == MIRRORED

    @property
    def preprocessing(self) -> str:
        """What a store's key says of how pixels were made. It changes whenever the pixels do."""
        crop = f"-crop-{self.crop}-keeps-{self.share:g}-colour-{self.colour_jitter:g}" if self.crop else ""
        crop += f"-erase-{self.erase:g}" if self.crop and self.erase else ""
        return PREPROCESSING + crop + (f"-{VIEWS[self.view]}" if self.view else "")

    @property
    def label(self) -> str:
        """What stands beside the progress bar."""
        crop = f" of crop {self.crop}" if self.crop else ""
        return "features" + crop + (f" ({VIEWS[self.view]})" if self.view else "")

    def load(self, path: Path, file_name: str, size: int, tell: Tell | None = None) -> np.ndarray:
        """The pixels of one image, uint8 ``(size, size, 3)``, RGB 0-255. Raises UnreadableImage.

        The random crop depends on its number and ``file_name`` only. So it is the same whatever other images there are.
        ``tell`` gets what a user should know of a damaged image that was read all the same.
        """
        if self.crop:
            rng = np.random.default_rng((self.crop, *file_name.encode("utf-8", "surrogateescape")))
            pixels = load_varied(path, size, self.share, self.colour_jitter, rng, tell, self.erase)
        else:
            pixels = load_image(path, size, tell)
        return view(pixels, self.view)


def training_looks(settings: TrainingSettings) -> list[Look]:
    """The further looks of the training images that ``settings`` ask for (mirror and crops).

    With mirror, every other crop is mirrored.
    """
    looks = [Look(MIRRORED)] if settings.mirror else []
    for number in range(1, settings.crops + 1):
        way = MIRRORED if settings.mirror and number % 2 == 0 else 0
        looks.append(Look(way, number, settings.crop, settings.colour_jitter, settings.erase))
    return looks


def further_views(ways: int) -> list[Look]:
    """The looks of whole images in the first ``ways`` of ``VIEWS``, but for the images as they are."""
    return [Look(way) for way in range(1, ways)]
