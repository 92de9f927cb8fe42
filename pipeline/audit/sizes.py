"""What happens to shapes: what is cut off, shown small, scaled up, or alone in its bucket."""

from collections.abc import Iterable

from pipeline.audit.epoch import Epoch
from pipeline.audit.findings import Case, Cases
from pipeline.data.buckets import MUCH, Offered, is_enlarged, lost_by_cutting
from pipeline.data.manifest import Example
from pipeline.geometry import Size


def of_sizes(shown: Iterable[tuple[Example, Size]], measured: Iterable[Example], possible: Offered) -> Cases:
    """What happens to pictures on their way to the sizes that they are shown or measured at."""
    pairs = [*shown, *((example, possible.measured(example)) for example in measured)]
    cases = sorted({(example.name, example.size, size): example for example, size in pairs}.items())
    cut = sorted(((lost_by_cutting(original, size), name, size) for (name, original, size), _ in cases), reverse=True)
    small = [
        e
        for (_, original, size), e in cases
        if not (is_enlarged(original, size) or (smallest := possible.of(e)[0]).holds(original) or smallest.enlarges)
    ]
    return {
        "cropped": [Case(f"{name}: {lost:.0%} to become {size}", (name,)) for lost, name, size in cut if lost >= MUCH],
        "enlarged": [
            Case(f"{name}: {original} to {size}", (name,))
            for (name, original, size), _ in cases
            if is_enlarged(original, size)
        ],
        "small": [Case(f"{e.name}: {e.size}", (e.name,)) for e in small],
    }


def of_buckets(epoch: Epoch, *, is_class: bool) -> Cases:
    """Sizes that have fewer pictures than a step. Those of pictures of a class alone are the class's."""
    batch_size, buckets = epoch.stream.batch_size, epoch.stream.buckets
    examples = [[epoch.examples[entry.index] for entry in bucket.entries] for bucket in buckets]
    own = [
        (bucket, [example.name for example in some if example.is_class == is_class])
        for bucket, some in zip(buckets, examples, strict=True)
        if all(example.is_class for example in some) == is_class
    ]
    return {
        "joined": [
            Case(f"{', '.join(map(str, bucket.joined))}: shown at {bucket.size}") for bucket, _ in own if bucket.joined
        ],
        "alone": [
            Case(f"{len(bucket.entries)} of {bucket.size}", tuple(names))
            for bucket, names in own
            if len(bucket.entries) < batch_size and len(buckets) > 1
        ],
    }
