"""What a run would show of a dataset, and what has to be known of the model for that."""

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.audit.findings import Weight
from pipeline.audit.languages import Otherwise
from pipeline.audit.texts import CountTokens, Lost
from pipeline.data.buckets import Offered, make_buckets, shown
from pipeline.data.manifest import Example
from pipeline.data.sampler import StepSampler
from pipeline.geometry import Size


@dataclass(frozen=True)
class Model:
    """What an audit has to know of the model and the run."""

    possible: Offered
    batch_size: int  # examples of an optimizer step
    seed: int
    lost: Lost | None  # captions that are cut, with what is lost
    count_tokens: CountTokens | None = None
    otherwise: Otherwise | None = None  # tells languages of captions apart
    refuses_cut: bool = False  # captions that are, with --long_prompts error

    @property
    def graver(self) -> dict[str, Weight]:
        """What weighs more than usual."""
        return {"cut": "error"} if self.refuses_cut else {}


@dataclass(frozen=True)
class Epoch:
    """All examples that would be shown, those of a class too, and in what order."""

    examples: Sequence[Example]
    stream: StepSampler

    def with_sizes(self, *, is_class: bool) -> list[tuple[Example, Size]]:
        """The subject's examples, or those of its class, with each size that they are shown at."""
        return [pair for pair in shown(self.examples, self.stream.buckets) if pair[0].is_class == is_class]

    def sizes_of(self, examples: Iterable[Example]) -> dict[str, int]:
        """How many of these are shown at which size."""
        wanted = {example.id for example in examples}
        pairs = shown(self.examples, self.stream.buckets)
        return dict(collections.Counter(str(size) for example, size in pairs if example.id in wanted))


def epoch_of(examples: Sequence[Example], model: Model) -> Epoch:
    """The epoch that shows these examples."""
    buckets = make_buckets(model.possible.pictures(examples), model.batch_size)
    return Epoch(examples, StepSampler(buckets, model.batch_size, model.seed))
