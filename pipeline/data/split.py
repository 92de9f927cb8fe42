"""Some images are held out of training, chosen by their content, so that what is learnt can be measured."""

from pipeline.data.manifest import Manifest, at, column
from pipeline.data.near import groups
from pipeline.errors import ConfigError
from pipeline.hashing import digest

DEFAULT_SHARE = 0.1
MIN_HELD_OUT = 4  # images: fewer say nothing
MIN_IMAGES = 40  # below, every image is needed for training unless a share is asked for


def split(manifest: Manifest, share: float | None) -> tuple[Manifest, Manifest | None]:
    """Cut a dataset into what is trained on and what is held out (None when nothing is).

    Whole images are held out, with all their captions, copies and near copies, or a caption would leak its
    image; there each example counts once. The choice is by hash of the image: renaming, reordering or
    another seed changes nothing, and a few added images change it little. `share` is --validation_split;
    None stands for a tenth, and for none at all under MIN_IMAGES images. Raises ConfigError if a share leaves
    nothing to train on.
    """
    of_examples = column(manifest.examples, "image_id")
    image_ids = sorted(set(of_examples), key=rank_of)
    if share == 0 or (share is None and len(image_ids) < MIN_IMAGES):
        return manifest, None
    num_held_out = max(MIN_HELD_OUT, round((DEFAULT_SHARE if share is None else share) * len(image_ids)))
    if num_held_out >= len(image_ids):
        raise ConfigError(
            f"--validation_split {share:g} holds out {num_held_out} of {len(image_ids)} images (never fewer than "
            f"{MIN_HELD_OUT}), which leaves none to train on; give more images or --validation_split 0."
        )
    sketches = dict(zip(of_examples, column(manifest.examples, "sketch"), strict=True))
    chosen = _chosen(image_ids, [sketches[image_id] for image_id in image_ids], num_held_out)
    sides: tuple[list[int], list[int]] = ([], [])
    for place, image_id in enumerate(of_examples):
        sides[image_id in chosen].append(place)
    held_out = at(manifest.examples, sides[True])
    return manifest.of(sides[False]), Manifest(manifest.origin, held_out).distinct()


def _chosen(image_ids: list[str], sketches: list[str], number: int) -> set[str]:
    """The first so many images, those that are nearly the same together; a group of more than that is trained on."""
    places = groups(sketches) if all(sketches) else range(len(image_ids))
    members: dict[int, list[str]] = {}
    for image_id, place in zip(image_ids, places, strict=True):
        members.setdefault(place, []).append(image_id)
    chosen: set[str] = set()
    for group in members.values():  # in the order of their first images
        fits = len(group) <= number and len(chosen) + len(group) < len(image_ids)
        if len(chosen) < number and fits:
            chosen |= set(group)
    return chosen if len(chosen) >= min(number, MIN_HELD_OUT) else set(image_ids[:number])


def rank_of(image_id: str) -> str:
    """By which images are chosen: content alone, in an order of no other meaning."""
    return digest(f"held out\n{image_id}".encode())
