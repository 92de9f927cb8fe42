"""Sizes of pictures in pixels, and where in its original a picture was cut. Imports no torch."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Size:
    """Width and height of a picture, in pixels."""

    width: int
    height: int

    @classmethod
    def square(cls, side: int) -> "Size":
        """A square picture."""
        return cls(side, side)

    @classmethod
    def parsed(cls, text: str) -> "Size | None":
        """A size as people write it, '832x1216' or '832 x 1216'; None where it is none."""
        found = re.fullmatch(r"\s*([0-9]+)\s*[xX×]\s*([0-9]+)\s*", text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    @property
    def area(self) -> int:
        """Pixels in all."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True)
class Geometry:
    """Where a picture of a size was cut from its resized original, in pixels, as the mirrored picture shows it."""

    original: Size
    top: int
    left: int
    size: Size


def whole(size: Size) -> Geometry:
    """The geometry of a picture that was neither resized nor cut: what is asked for in sampling."""
    return Geometry(size, 0, 0, size)
