"""At which sizes a run shows its pictures, and what that costs them."""

import collections
import functools

from pipeline.config import Run
from pipeline.data.buckets import (
    LITTLE,
    MUCH,
    Bucket,
    Offered,
    fields_shown,
    is_enlarged,
    lost_by_cutting,
    make_buckets,
    share_cropped,
)
from pipeline.data.buckets import offered as shapes_offered
from pipeline.data.manifest import Manifest, column
from pipeline.data.sampler import StepSampler
from pipeline.errors import ConfigError
from pipeline.families import sizes
from pipeline.families.base import Family
from pipeline.geometry import Size
from pipeline.notes import Note


def offered(run: Run, family: Family) -> Offered:
    """The shapes for each resolution of each source. Raises ConfigError for what the model cannot take."""
    data = run.data
    given = [("resolution", side) for side in dict.fromkeys(side for source in data.sources for side in source.sides)]
    given += [("bucket_step", data.bucket_step)] if data.bucket_step is not None else []
    sizes.require_multiples(family, given)
    found = shapes_offered(data, family.native_size.width, family.size_multiple)
    longest = max(max(size.width, size.height) for shapes in found.every for size in shapes.ladder)
    sizes.require_no_longer(family, longest, "lower --resolution" + " or --max_aspect" * data.buckets)
    return found


def preview_size(run: Run, family: Family, square: Size) -> Size:
    """The size of previews: as asked, or the square. Raises ConfigError for one that the model cannot take."""
    size = run.preview.size or square
    if run.preview.size is not None:
        sizes.require_size(family, size, "validation_size")
    return size


def sampler_for(run: Run, manifest: Manifest, possible: Offered, num_processes: int) -> StepSampler:
    """The stream of examples, those of one size together. Raises ConfigError for steps without parts to draw from."""
    train = run.train
    batch_size = train.examples_per_process * num_processes
    if run.objective.stratified_timesteps and batch_size == 1:
        raise ConfigError("--stratified_timesteps parts the times of a step, and a step has one example; leave it out.")
    buckets = make_buckets(possible.pictures(manifest.examples), batch_size)
    return StepSampler(buckets, batch_size, train.seed)


def size_text(buckets: tuple[Bucket, ...], possible: Offered) -> str:
    """At which sizes the examples are shown, in a few words."""
    if len(buckets) == 1:
        return f"{buckets[0].size} pixels"
    if len(possible.every) == 1:
        return f"{len(buckets)} sizes with about the pixels of {possible.square}"
    smallest, largest = (
        choose((bucket.size for bucket in buckets), key=lambda size: size.area) for choose in (min, max)
    )
    return f"{len(buckets)} sizes from {smallest} to {largest}"


def rows(manifest: Manifest, buckets: tuple[Bucket, ...]) -> list[tuple[str, str]]:
    """The buckets and what cropping takes, for the plan."""
    found = []
    if len(buckets) > 1 or buckets[0].joined:
        found.append(("buckets", ", ".join(map(_bucket_text, buckets))))
    numbers = collections.Counter(fields_shown(manifest.examples, buckets, "size"))
    most = max(lost_by_cutting(*case) for case in numbers)
    if most >= LITTLE:
        cases = fields_shown(manifest.examples, buckets, "name", "size")
        is_worst = {case for case in numbers if lost_by_cutting(*case) == most}
        worst = max(name for name, *case in cases if tuple(case) in is_worst)
        share = share_cropped(numbers)
        found.append(("cropping", f"takes {share:.1%} of all pixels, at most {most:.0%} ({worst})"))
    return found


def notes(manifest: Manifest, sampler: StepSampler, possible: Offered) -> list[str]:
    """What happens to pictures that do not fit, the worst first."""
    buckets, batch_size = sampler.buckets, sampler.batch_size

    @functools.cache
    def is_odd(original: Size, size: Size) -> bool:
        return is_enlarged(original, size) or lost_by_cutting(original, size) >= MUCH

    every = fields_shown(manifest.examples, buckets, "name", "size")
    cases = sorted({case for case in every if is_odd(*case[1:])})
    fits = functools.cache(lambda original, shapes: shapes.enlarges or shapes.holds(original))
    pictures = zip(column(manifest.examples, "name"), possible.pictures(manifest.examples), strict=True)
    enlarged = {name for name, original, size in cases if is_enlarged(original, size)}
    small = {
        (name, own, shapes[0].side)
        for name, (own, shapes) in pictures
        if not fits(own, shapes[0]) and name not in enlarged
    }
    most = max(bucket.size.area for bucket in buckets)
    found: list[str] = [
        Note("--resolution: no picture has so many pixels (--upscale enlarges them)", str(shapes.side))
        for shapes in possible.every
        if not shapes.enlarges and min(size.area for size in shapes.ladder) > most
    ]
    found += [
        Note(f"smaller than {size}, so enlarged", f"{name} ({original})")
        for name, original, size in cases
        if is_enlarged(original, size)
    ]
    found += [
        Note(
            f"with fewer pixels than {Size.square(side)}, so shown smaller (--upscale enlarges them)",
            f"{name} ({original})",
        )
        for name, original, side in sorted(small)
    ]
    cuts = sorted((-lost_by_cutting(original, size), name, size) for name, original, size in cases)
    found += [Note("cropped", f"{name} by {-cut:.0%} to {size}") for cut, name, size in cuts if -cut >= MUCH]
    found += [
        Note(
            f"fewer pictures than the {batch_size} of a step, so a step shows them more than once",
            f"{len(bucket.entries)} of {bucket.size}",
        )
        for bucket in buckets
        if len(bucket.entries) < batch_size and len(buckets) > 1
    ]
    return found


def _bucket_text(bucket: Bucket) -> str:
    joined = f" (with {', '.join(map(str, bucket.joined))})" if bucket.joined else ""
    return f"{len(bucket.entries)} of {bucket.size}{joined}"
