"""The pictures of a class beside the subject's: looked at like these, and never counted among them."""

import dataclasses
from dataclasses import dataclass

from pipeline.audit import files, languages, likeness, sizes, texts
from pipeline.audit.epoch import Epoch, Model
from pipeline.audit.findings import Case, Cases, Finding, findings_of, lighter_for
from pipeline.audit.survey import Survey, survey
from pipeline.data import captions
from pipeline.data.buckets import Offered
from pipeline.data.class_images import ClassImages, apart, gather_given, num_to_draw, promised
from pipeline.data.manifest import Example, Manifest, by_name
from pipeline.data.options import DataOptions


@dataclass(frozen=True)
class ClassPictures:
    """The pictures of a class that a run would have."""

    found: Survey | None  # what --class_data_dir holds; None where it is not given
    given: Manifest | None  # what of it is used
    images: ClassImages  # with examples that stand for what the base has not drawn yet
    to_draw: frozenset[str]  # the hashes of these

    def is_given(self, example: Example) -> bool:
        """Whether a picture is there already."""
        return example.image_id not in self.to_draw

    @property
    def trained(self) -> tuple[Example, ...]:
        """Those there that are trained on."""
        return tuple(filter(self.is_given, self.images.trained))

    @property
    def measured(self) -> tuple[Example, ...]:
        """Those there that are only measured."""
        return tuple(filter(self.is_given, self.images.measured))


@dataclass(frozen=True)
class ClassAudit:
    """The pictures of a class in numbers, and what was found."""

    pictures: ClassPictures
    sizes: dict[str, int]  # how many would be shown at which size
    findings: tuple[Finding, ...]

    def numbers(self) -> dict[str, int]:
        """The pictures of the class in numbers."""
        given = self.pictures.given
        return {
            "pictures": len(given.examples) if given is not None else 0,
            "to train on": len(self.pictures.trained),
            "only measured": len(self.pictures.measured),
            "to be drawn by the base": len(self.pictures.to_draw),
        }


def pictures_of(options: DataOptions, possible: Offered) -> ClassPictures | None:
    """The pictures of the class; None where there is none. Raises DataError where --class_data_dir is no folder."""
    if not options.has_class:
        return None
    found = survey(options.of_class, gather_given) if options.class_data_dir is not None else None
    whole = found.manifest if found is not None else None
    given = whole.distinct().limited(options.num_class_images) if whole is not None else None
    number = num_to_draw(options, given)
    drawn = promised(options, number, possible.square) if number else None
    to_draw = frozenset(example.image_id for example in drawn.examples) if drawn is not None else frozenset[str]()
    return ClassPictures(found, given, apart(options, given, drawn), to_draw)


def audit_class(
    options: DataOptions, pictures: ClassPictures, subject: Survey, epoch: Epoch | None, model: Model
) -> ClassAudit:
    """Look at the pictures of the class; `epoch` shows them beside the subject's, None where nothing can be shown."""
    found = pictures.found
    every = epoch.with_sizes(is_class=True) if epoch is not None else []
    shown = [(example, size) for example, size in every if pictures.is_given(example)]
    counted = epoch.sizes_of(pictures.trained) if epoch is not None else {}
    if found is None:
        return ClassAudit(pictures, counted, ())
    parts = [files.of_files(found), {"no-caption": [Case(name, (name,)) for name in sorted(found.uncaptioned)]}]
    if found.manifest is not None and pictures.given is not None:
        measured = Manifest(found.manifest.origin, pictures.measured) if options.with_prior_preservation else None
        parts += [
            files.of_pictures(found),
            likeness.of_likeness(found, measured),
            likeness.between(subject, found),
            texts.of_each(pictures.given.examples, model.lost),
            languages.of_language(pictures.given.examples, model.otherwise),
            _of_trigger(options, pictures.given),
            sizes.of_sizes(shown, pictures.measured, model.possible),
            sizes.of_buckets(epoch, is_class=True) if epoch is not None else {},
        ]
    made = findings_of(*parts, otherwise=lighter_for([options.of_class]) | model.graver)
    return ClassAudit(pictures, counted, tuple(map(_in_its_words, made)))


def _of_trigger(options: DataOptions, given: Manifest) -> Cases:
    """Captions that call the class what only the subject is called."""
    cases = [
        Case(f"{example.name}: {caption!r}", (example.name,))
        for example in by_name(given)
        for caption in example.captions
        if any(captions.has_word(caption, word) for word in options.trigger_words)
    ]
    return {"class-trigger": cases}


def _in_its_words(one: Finding) -> Finding:
    """A finding in which the class's prompt has its own name."""

    def said(text: str) -> str:
        return text.replace("--instance_prompt", "--class_prompt")

    cases = tuple(dataclasses.replace(case, text=said(case.text)) for case in one.cases)
    return dataclasses.replace(one, advice=said(one.advice), cases=cases)
