"""What happens to shapes: what is cut off, shown small, scaled up, or alone in its bucket."""

from pipeline.audit.findings import Case, Cases
from pipeline.data.buckets import MUCH, Bucket, Offered, is_enlarged, lost_by_cutting, shown
from pipeline.data.manifest import Manifest
from pipeline.data.sampler import StepSampler


def of_sizes(trained: Manifest, held_out: Manifest | None, stream: StepSampler, possible: Offered) -> Cases:
    """What happens to pictures on their way to the sizes that they are shown at."""
    buckets, batch_size = stream.buckets, stream.batch_size
    pairs = list(shown(trained.examples, buckets))
    pairs += [(e, possible.measured(e)) for e in (held_out.examples if held_out is not None else ())]
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
        "joined": [
            Case(f"{', '.join(map(str, bucket.joined))}: shown at {bucket.size}") for bucket in buckets if bucket.joined
        ],
        "alone": [
            Case(f"{len(bucket.entries)} of {bucket.size}", _names(trained, bucket))
            for bucket in buckets
            if len(bucket.entries) < batch_size and len(buckets) > 1
        ],
    }


def _names(manifest: Manifest, bucket: Bucket) -> tuple[str, ...]:
    return tuple(manifest.examples[entry.index].name for entry in bucket.entries)
