"""Which sizes of pictures a model takes."""

from pipeline.errors import ConfigError
from pipeline.families.base import Family
from pipeline.geometry import Size


def require_size(family: Family, size: Size, flag: str) -> None:
    """Raise ConfigError for a size of pictures that the model cannot take, as a flag gives it."""
    require_multiples(family, [(flag, size.width), (flag, size.height)])
    require_no_longer(family, max(size.width, size.height), f"lower --{flag}")


def require_multiples(family: Family, given: list[tuple[str, int]]) -> None:
    """Raise ConfigError for lengths of sides, each with its flag, that the model cannot take, with the nearest."""
    multiple = family.size_multiple
    problems = [
        f"--{flag} {side} must be a multiple of {multiple}; {max(multiple, round(side / multiple) * multiple)} is near."
        for flag, side in given
        if side % multiple or not side
    ]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def require_no_longer(family: Family, side: int, step: str) -> None:
    """Raise ConfigError for a side, in pixels, beyond what the model has positions for."""
    limit = family.longest_side
    if limit is not None and side > limit:
        raise ConfigError(f"The model takes sides of up to {limit} pixels, and one would have {side}; {step}.")
