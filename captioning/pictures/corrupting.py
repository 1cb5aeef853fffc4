"""Pictures made worse on purpose, to see how captions suffer: in six ways, each in five severities. Needs no Keras.

Levels of blur, noise and JPEG are those of ImageNet-C (Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261,
in https://github.com/hendrycks/robustness). Levels of occlusion, darkness and rotation are our own.

What is drawn depends on the name of the picture, the kind and the severity alone. So a picture always gets the same
noise, whatever other pictures there are. Legend: S pixels per side.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from captioning.base.errors import UserError

SEVERITIES = 5
# Raise this whenever corrupted pixels change, and results of before do not count any more.
_VERSION = 1
_GREY = 128
_SIDE = 224  # pixels per side of ImageNet-C, which its widths of blur belong to


@dataclass(frozen=True)
class Corruption:
    """One way of making pictures worse. ``severity`` is 1 to 5. For occlusion it is ten times the share."""

    kind: str  # a key of KINDS
    severity: float

    @property
    def level(self) -> float:
        """What the severity means, in the unit of its kind."""
        if self.severity in range(1, SEVERITIES + 1):
            return KINDS[self.kind].levels[int(self.severity) - 1]
        return self.severity / 10

    @property
    def meaning(self) -> str:
        """What the severity means, in words."""
        return KINDS[self.kind].meaning.format(self.level)

    @property
    def key(self) -> str:
        """All that decides the pixels, besides the picture itself."""
        return f"{self.kind}-{self.severity:g}-is-{self.level:g}-v{_VERSION}"

    def apply(self, pixels: np.ndarray, file_name: str) -> np.ndarray:
        """The picture ``file_name`` made worse. ``pixels`` are uint8 ``(S, S, 3)``, RGB, and so is the result."""
        seed = f"{self.kind} {self.severity:g} {file_name}".encode("utf-8", "surrogateescape")
        return KINDS[self.kind].apply(pixels, self.level, np.random.default_rng([*seed]))


def _occlude(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cover a share of the picture by a grey rectangle. Its place is random. It is at most twice as long as wide."""
    size = len(pixels)
    aspect = np.exp(rng.uniform(-1, 1) * min(np.log(2), -np.log(share)))
    height = min(size, max(1, round(size * (share / aspect) ** 0.5)))
    width = min(size, max(1, round(share * size * size / height)))
    top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
    covered = pixels.copy()
    covered[top : top + height, left : left + width] = _GREY
    return covered


def _blur(pixels: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blur by a Gaussian, which Pillow makes of three box filters. ``sigma`` is for 224 pixels per side."""
    picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma * len(pixels) / _SIDE))
    return np.array(picture)


def _add_noise(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to each number. ``deviation`` is for numbers from 0 to 1."""
    noisy = pixels + 255 * deviation * rng.standard_normal(pixels.shape)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def _darken(pixels: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return np.rint(pixels * factor).astype(np.uint8)


def _rotate(pixels: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Rotate to a random side. The size stays, so corners are cut off, and what comes in is grey."""
    degrees *= rng.choice([-1, 1])
    picture = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(_GREY,) * 3)
    return np.array(picture)


def _compress(pixels: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Write and read the picture as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
    return np.array(Image.open(file))


@dataclass(frozen=True)
class Kind:
    """A kind of corruption. ``apply(pixels, level, rng)`` makes a picture worse."""

    levels: tuple[float, float, float, float, float]  # of severity 1 to 5
    meaning: str  # says what a level means
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


KINDS = {
    "occlusion": Kind((0.1, 0.2, 0.3, 0.4, 0.5), "a grey rectangle over {:.0%} of the picture", _occlude),
    "blur": Kind((1, 2, 3, 4, 6), "Gaussian blur, sigma {:g} of 224 pixels", _blur),
    "noise": Kind((0.08, 0.12, 0.18, 0.26, 0.38), "Gaussian noise, deviation {:g} of the range", _add_noise),
    "darkness": Kind((0.6, 0.4, 0.25, 0.15, 0.08), "all values times {:g}", _darken),
    "rotation": Kind((15, 30, 45, 60, 90), "rotated by {:g} degrees", _rotate),
    "jpeg": Kind((25, 18, 15, 10, 7), "JPEG of quality {:g}", _compress),
}
ALL = "all"


def parse_corruptions(texts: Iterable[str]) -> list[Corruption]:
    """The corruptions that ``--corrupt`` names, each once, by kind and severity.

    A text is ``KIND``, which is all five severities, ``KIND:SEVERITY``, ``occlusion:SHARE`` or ``all``. Raises
    UserError.
    """
    found = {corruption for text in texts for corruption in _parse(text)}
    return sorted(found, key=lambda corruption: ([*KINDS].index(corruption.kind), corruption.severity))


def _parse(text: str) -> list[Corruption]:
    kind, colon, severity = text.partition(":")
    kinds = [*KINDS] if kind == ALL else [kind]
    if kind not in (ALL, *KINDS):
        raise UserError(f"--corrupt: there is no kind {kind!r}; choose from {', '.join(KINDS)}, or {ALL}")
    if not colon:
        return [Corruption(name, number) for name in kinds for number in range(1, SEVERITIES + 1)]
    return [Corruption(name, _severity(name, severity, text)) for name in kinds]


def _severity(kind: str, text: str, whole: str) -> float:
    """The severity in ``text``, which is part of the ``whole`` argument. Raises UserError."""
    if text in map(str, range(1, SEVERITIES + 1)):
        return int(text)
    if kind == "occlusion":
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if 0 < share < 1:
            return round(10 * share, 9)  # a share of 0.3 is severity 3
        raise UserError(
            f"--corrupt: {whole}: give a severity from 1 to {SEVERITIES}, or the share of the picture that is covered, "
            "between 0 and 1, such as occlusion:0.3"
        )
    raise UserError(f"--corrupt: {whole}: give a severity from 1 to {SEVERITIES}, or leave it out for all of them")
