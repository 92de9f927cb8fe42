"""Who looks at the pictures of a frontier, and what of it becomes a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.commands.evaluation.subject import Subject
from pipeline.commands.evaluation.wanted import Wanted
from pipeline.commands.frontier.grid import Way
from pipeline.commands.frontier.options import FrontierOptions
from pipeline.errors import ConfigError
from pipeline.evaluation import looking
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.frontier.found import Measured, Row
from pipeline.evaluation.looking import REFERENCE, PictureSet
from pipeline.evaluation.metrics import adherence, diversity
from pipeline.evaluation.metrics.compared import Compared, Seen
from pipeline.evaluation.metrics.measure import can_be, interval_of
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.statistics import Interval, distinct, mean_of, means_by
from pipeline.remembered import cache_folder

PREFERRED = ("rouge_l", "clip_margin", "top1")  # of adherence, the first that can be measured


@dataclass(frozen=True)
class Eyes:
    """Which extractor says what."""

    adherence: str  # the metric
    diversity: str
    adherence_by: Extractor
    diversity_by: Extractor
    cache: Path

    @classmethod
    def of(cls, judges: Sequence[Extractor], options: FrontierOptions, subject: Subject, captions: Wanted) -> "Eyes":
        """Whoever can say how captions are followed, and of those who take distances the last.

        Raises ConfigError where there is nobody, and where captions ask for nothing that can be measured.
        """
        known = [name for name, metric in METRICS.items() if metric.of_caption]
        wanted = (options.adherence,) if options.adherence is not None else PREFERRED
        if strange := [name for name in wanted if name not in known]:
            raise ConfigError(f"--adherence {strange[0]} is no metric of captions; there are {', '.join(known)}.")
        pairs = [(name, judge) for name in wanted for judge in judges if _may_say(name, judge, bool(captions.names))]
        if not pairs:
            raise ConfigError(
                f"Nobody can say how well pictures of these captions follow them ({', '.join(wanted)}): name an "
                "image-text model with --extractor, or an image-to-text model with --captioner."
            )
        silent = [text for text in captions.captions if adherence.quoted(text) is None]
        if pairs[0][0] == "written" and silent:
            raise ConfigError(
                f"--adherence written: {len(silent)} captions want nothing written, such as {silent[0]!r}."
            )
        far = [judge for judge in judges if judge.features is not None and judge.takes_distances]
        if not far:
            raise ConfigError("Nobody says how unlike pictures are: name a vision model with --extractor.")
        name, judge = pairs[0]
        cache = cache_folder(options.cache_dir or subject.run.get("cache_dir"))
        return cls(name, options.diversity, judge, far[-1], cache)

    @property
    def measured(self) -> Measured:
        """In names."""
        return Measured(
            adherence=self.adherence,
            diversity=self.diversity,
            adherence_by=self.adherence_by.name,
            diversity_by=self.diversity_by.name,
        )

    def row(self, way: Way, folder: Path, wanted: Wanted, captions: int) -> Row:
        """What came of a way of drawing the first captions."""
        count = captions * wanted.num_images
        pictures = PictureSet(folder / way.folder, wanted.names[:count], wanted.groups[:count])
        read = looking.look(pictures, self.adherence_by, self.cache)
        seen = looking.look(pictures, self.diversity_by, self.cache)
        values = METRICS[self.adherence].values
        assert values is not None
        follows = means_by(values(Compared(read, None, self.adherence_by)), read.groups)
        vendi = within_vendi(seen)
        differ = vendi if self.diversity == "vendi" else _unlike(seen)
        return Row(
            setting=way.setting,
            folder=way.folder,
            captions=captions,
            is_beaten=False,
            adherence=mean_of(follows),
            diversity=mean_of(differ),
            vendi=mean_of(vendi),
            kid=self._kid(seen, folder, wanted),
            values=tuple((one, other) for one, other in zip(follows.tolist(), differ.tolist(), strict=True)),
        )

    def _kid(self, seen: Seen, folder: Path, wanted: Wanted) -> Interval | None:
        true = self._true(folder, wanted)
        if true is None:
            return None
        given = Compared(seen, true, self.diversity_by)
        return interval_of(METRICS["kid"], given) if can_be(METRICS["kid"], given) else None

    def _true(self, folder: Path, wanted: Wanted) -> Seen | None:
        """The true pictures, where there are some: looked at once, and kept by content from then on."""
        if not wanted.reference or not (folder / REFERENCE).is_dir():
            return None
        names = tuple(example.name for example in wanted.reference) if wanted.is_paired else ()
        return looking.look(
            PictureSet(folder / REFERENCE, names, wanted.reference_groups), self.diversity_by, self.cache
        )


def within_vendi(seen: Seen) -> Float[Tensor, " g"]:
    """The number of pictures that are unlike each other (diversity.vendi), caption by caption."""
    features = seen.features
    assert features is not None
    numbers: Int[Tensor, " g"] = distinct(seen.groups)
    return torch.tensor([diversity.vendi(features[seen.groups == number]) for number in numbers], dtype=torch.float64)


def _unlike(seen: Seen) -> Float[Tensor, " g"]:
    assert seen.features is not None
    return means_by(diversity.within_group(seen.features, seen.groups), seen.groups)


def _may_say(metric: str, judge: Extractor, has_answers: bool) -> bool:
    """Whether an extractor has what a metric of captions needs, and the captions the answers it may ask for."""
    needs = METRICS[metric].needs
    has = {
        "captions": judge.captions is not None,
        "answers": judge.ranks is not None and has_answers,
        "readings": judge.read is not None and not judge.reads_letters,
        "letters": judge.read is not None and judge.reads_letters,
    }
    return all(has.get(need, True) for need in needs)
