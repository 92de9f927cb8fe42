"""What a metric may look at: pictures as an extractor sees them, the reference, and the base model's pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.statistics import distinct

Rows = Float[Tensor, "n d"]
OtherRows = Float[Tensor, "m d"]
Values = Float[Tensor, " n"]  # of each picture
Need = Literal[
    "distances",
    "captions",
    "classes",
    "answers",
    "score",
    "readings",
    "letters",
    "reference",
    "own",
    "several",
    "rivals",
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A set of pictures as an extractor sees it, row by row."""

    groups: Int[Tensor, " n"]  # of its caption: pictures of one caption are no independent examples
    prompts: tuple[str, ...]
    files: tuple[str, ...]  # where the pictures lie
    names: tuple[str, ...] = ()  # of the reference's files in the dataset; () where there is none
    features: Float[Tensor, "n d"] | None = None
    captions: Float[Tensor, "n d"] | None = None  # in the space of the features
    readings: tuple[str, ...] | None = None

    def rows(self, chosen: Sequence[int]) -> "Seen":
        """Some of them."""
        places = torch.tensor(chosen, dtype=torch.long)
        return Seen(
            groups=self.groups[places],
            prompts=tuple(self.prompts[place] for place in chosen),
            files=tuple(self.files[place] for place in chosen),
            names=tuple(self.names[place] for place in chosen) if self.names else (),
            features=None if self.features is None else self.features[places],
            captions=None if self.captions is None else self.captions[places],
            readings=None if self.readings is None else tuple(self.readings[place] for place in chosen),
        )

    def without(self, groups: Int[Tensor, " k"]) -> "Seen":
        """All but the pictures of some captions."""
        return self.rows((~torch.isin(self.groups, groups)).nonzero().flatten().tolist())

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures themselves, decoded anew."""
        return [Image.open(file).convert("RGB") for file in self.files]

    @property
    def num_captions(self) -> int:
        """What is independent among them."""
        return len(distinct(self.groups))

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Compared:
    """The pictures to be measured, and what with."""

    pictures: Seen
    reference: Seen | None  # None where the reference itself is measured, or there is none
    extractor: Extractor | None  # None for metrics of bare pictures

    @property
    def at_hand(self) -> set[Need]:
        """What a metric may need of it."""
        found: set[Need] = set()
        seen, extractor = self.pictures, self.extractor
        if extractor is not None:
            if extractor.takes_distances and seen.features is not None:
                found.add("distances")
            if not extractor.takes_distances and extractor.captions is None and seen.features is not None:
                found.add("score")
            found |= {"captions"} if extractor.captions is not None else set()
            found |= {"classes"} if extractor.classify is not None else set()
            found |= {"answers"} if extractor.ranks is not None and seen.names else set()
            if seen.readings is not None:
                found.add("letters" if extractor.reads_letters else "readings")
        if self.reference is not None:
            found.add("reference")
            if torch.isin(seen.groups, self.reference.groups).all():
                found.add("own")
        found |= {"several"} if seen.num_captions < len(seen) else set()
        return found | ({"rivals"} if len(set(seen.prompts)) > 1 else set())

    def without(self, groups: Int[Tensor, " k"]) -> "Compared":
        """The same without some captions."""
        reference = None if self.reference is None else self.reference.without(groups)
        return Compared(self.pictures.without(groups), reference, self.extractor)
