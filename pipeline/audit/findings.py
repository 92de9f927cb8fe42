"""What an audit can find, and what it found: each finding with the pictures it is about, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.data.options import DataOptions

Weight = Literal["error", "warning", "note"]
ORDER: tuple[Weight, ...] = ("error", "warning", "note")
MEANINGS: dict[Weight, str] = {
    "error": "training refuses it",
    "warning": "it will be seen in what is learnt",
    "note": "worth knowing",
}


@dataclass(frozen=True)
class Kind:
    """One kind of finding: a sentence without the number of its cases, and what to do."""

    weight: Weight
    title: str
    advice: str


KINDS = {
    # Files
    "layout": Kind("error", "Files that do not fit together", "Mend each, as it says."),
    "unreadable": Kind(
        "error", "Pictures that cannot be read", "Replace or remove them; --on_bad_image skip leaves them out."
    ),
    "unread": Kind("error", "Pictures in formats that are not read", "Convert them to PNG."),
    "remarks": Kind("note", "Remarks on files", "Look whether that is meant."),
    "outside": Kind("warning", "Links that lead out of the folder", "A copy of the folder would lack them."),
    # Pictures
    "hidden": Kind(
        "error", "Pictures that are transparent all over", "--masked_loss would learn nothing of them; remove them."
    ),
    "one-colour": Kind("warning", "Pictures of one colour", "There is nothing to learn from; remove them."),
    "dark-or-white": Kind(
        "warning",
        "Pictures that are nearly black or nearly white",
        "Were they exposed wrongly, or did they lose their transparency?",
    ),
    "turned": Kind(
        "note",
        "Pictures stored lying, with a mark that says so (EXIF)",
        "They are turned upright; other programs may not do that.",
    ),
    "profile": Kind("note", "Pictures with a colour profile", "Their colours are converted to sRGB."),
    "mode": Kind("note", "Pictures in unusual modes", "They are converted to 8 bits of RGB."),
    "transparent": Kind(
        "note",
        "Pictures with transparency",
        "--alpha_background is put behind it; --masked_loss learns only what is opaque.",
    ),
    "animated": Kind("note", "Animated pictures", "Only the first frame is seen."),
    # Likeness
    "same": Kind(
        "warning",
        "The same picture with the same caption more than once",
        "It weighs more for it; remove all but one, or say it with a folder named N_words.",
    ),
    "same-picture": Kind(
        "warning",
        "The same picture with several captions, in rows or files of its own",
        "Give one picture a list of captions instead: then it counts once.",
    ),
    "near": Kind(
        "warning",
        "Pictures that are nearly the same",
        "Keep the best of each: what is shown twice is learnt by heart sooner.",
    ),
    "mirrored": Kind(
        "note", "Pictures that are mirror images", "Keep one, and let --random_flip mirror where that is wanted."
    ),
    "leak": Kind(
        "warning",
        "Nearly the same picture both trained on and held out",
        "The held-out loss would praise learning by heart: keep one of each.",
    ),
    # Pictures of a class
    "class-own": Kind(
        "error",
        "Pictures of the class that are the dataset's own",
        "Remove them from --class_data_dir: what is held out would be trained on.",
    ),
    "class-near": Kind(
        "warning",
        "Pictures of the class that are nearly the dataset's own",
        "Remove them from --class_data_dir: they keep the model from learning these.",
    ),
    "class-trigger": Kind(
        "warning",
        "Captions of the class that hold the trigger word",
        "Take it out there: it is to mean what tells the subject from its class.",
    ),
    # Captions
    "no-caption": Kind(
        "error", "Pictures without a caption", "Write one, or give all the same with --instance_prompt."
    ),
    "cut": Kind(
        "warning",
        "Captions that the text encoder does not read to their end",
        "Put what matters first, or make them shorter.",
    ),
    "file-name": Kind(
        "warning", "Captions that are no more than the name of a file", "Say what is to be seen instead."
    ),
    "markup": Kind(
        "warning",
        "Captions with markup, addresses or braces left in them",
        "Take them out: they are learnt as words.",
    ),
    "weighted": Kind(
        "error",
        "Captions that weigh words, as prompts for A1111 do",
        "Take the weights out, or let --prompt_weights strip do it.",
    ),
    "long": Kind("note", "Captions of very many words", "CLIP reads about 50 of them; T5 reads on."),
    "short": Kind("note", "Captions of a single word", "The more a caption says, the more can be asked for."),
    "alike": Kind(
        "warning",
        "Captions that many pictures share",
        "What tells these pictures apart cannot be asked for later; say it in their captions.",
    ),
    "dominant": Kind(
        "note",
        "Words that nearly every caption holds",
        "They become part of what is learnt: keep one as the trigger word, and take the others out.",
    ),
    "script": Kind(
        "warning", "Captions in other letters than most", "CLIP has read hardly anything but English; translate them."
    ),
    "language": Kind(
        "warning",
        "Captions in another language than English",
        "Text encoders have read mostly English, and CLIP hardly anything else; translate them.",
    ),
    "sides": Kind(
        "warning",
        "Captions that say left or right, while --random_flip mirrors the pictures",
        "Leave --random_flip out.",
    ),
    # Shapes
    "cropped": Kind(
        "warning",
        "Pictures of which cropping takes much",
        "See what is left with --preview_dataset; cut them yourself, or raise --max_aspect.",
    ),
    "enlarged": Kind(
        "warning",
        "Pictures that have to be scaled up",
        "Their softness is learnt too: find larger ones, or lower --resolution.",
    ),
    "small": Kind(
        "warning",
        "Pictures with fewer pixels than the model sees, which are shown smaller",
        "Models draw poorly at sizes they were not trained at: find larger ones, or lower --resolution.",
    ),
    "joined": Kind(
        "note",
        "Sizes with fewer pictures than a step takes, shown at a neighbour's",
        "With a smaller --train_batch_size they could keep their own.",
    ),
    "alone": Kind(
        "note",
        "Sizes with fewer pictures than a step takes, and no neighbour to join",
        "A step shows these more than once; a smaller --train_batch_size would not.",
    ),
    # Balance
    "unbalanced": Kind(
        "warning",
        "Columns in which one value outweighs all others",
        "The others are learnt less well: find more pictures of them, or repeat those there are.",
    ),
    "together": Kind(
        "warning",
        "Values that always come together",
        "One cannot be asked for without the other: find pictures that have only one of them.",
    ),
    "rare": Kind("note", "Values that only one picture has", "One picture is learnt by heart, not understood."),
}


@dataclass(frozen=True)
class Case:
    """One instance of a finding."""

    text: str  # which, in a few words
    examples: tuple[str, ...] = ()  # names of the pictures concerned


Cases = dict[str, list[Case]]  # by kind, the worst first


@dataclass(frozen=True)
class Finding:
    """What was found of one kind."""

    kind: str
    weight: Weight
    title: str
    advice: str
    cases: tuple[Case, ...]


def findings_of(*found: Cases, otherwise: Mapping[str, Weight] | None = None) -> list[Finding]:
    """The kinds that have cases, the gravest first, then those with the most; some weigh otherwise than usual."""
    all_of_them = {kind: cases for some in found for kind, cases in some.items() if cases}
    weights = {kind: KINDS[kind].weight for kind in all_of_them} | dict(otherwise or {})
    made = [
        Finding(kind, weights[kind], KINDS[kind].title, KINDS[kind].advice, tuple(cases))
        for kind, cases in all_of_them.items()
    ]
    return sorted(made, key=lambda one: (ORDER.index(one.weight), -len(one.cases), one.kind))


def lighter_for(sources: Sequence[DataOptions]) -> dict[str, Weight]:
    """What weighs less than usual, because training is told what to do with it."""
    lighter = dict[str, Weight]()
    if all(source.on_bad_image == "skip" for source in sources):
        lighter |= {"unreadable": "warning", "unread": "warning"}
    if all(source.missing_caption != "error" or source.instance_prompt is not None for source in sources):
        lighter["no-caption"] = "warning"
    if all(source.prompt_weights == "keep" for source in sources):
        lighter["weighted"] = "warning"
    return lighter
