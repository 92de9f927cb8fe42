"""The verbs of datasets."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline import console
from pipeline.errors import ConfigError


def card(name: str, *, dataset: Path | None = None) -> None:
    """Begin the card of a dataset, data_cards/NAME.md: what must be known before an adapter trained on it is shared.

    Example: python -m pipeline card my_pictures --dataset my_pictures

    Parameters
    ----------
    name
        What the dataset is called: the last part of its folder or Hub id.
    dataset
        Its folder, to note in the card which data it was written for.
    """
    from pipeline.commands import data_card

    console.say(f"Card  {data_card.begin(name, dataset)}: fill in what says TODO")


def check(
    *flags: Annotated[str, Parameter(allow_leading_hyphen=True)],
    page: Path | None = None,
    json: bool = False,
    preview_dataset: Path | None = None,
    card: Path | None = None,
    croissant: bool = False,
    caption: str | None = None,
    caption_prompt: str | None = None,
) -> int:
    """Look at a dataset before it is trained on: files, pictures, copies, captions, shapes, balance.

    Takes every flag of train_lora.py, so that it sees what that run would; a folder or a name alone will do.
    Exit code 2 where training would refuse the dataset.

    Example: python -m pipeline check photos --pretrained_model_name_or_path user/model --page photos.html

    Parameters
    ----------
    flags
        The dataset, or the flags of the training.
    page
        File for a page with the pictures of each finding.
    json
        The same for programs, with every case.
    preview_dataset
        New folder for the very crops, masks and captions of the first epoch.
    card
        The dataset's card, data_cards/photos.md say, to put what was counted into; begun where there is none.
    croissant
        Describe the dataset in Croissant, croissant.json and croissant.csv in its folder, with what its card declares.
    caption
        An image-to-text model of transformers, a folder or a Hub id: what it says of each picture without a caption is
        written beside it first, never over anything.
    caption_prompt
        What such a model is told to do, where it takes instructions.
    """
    from pipeline.commands import check as checking

    words = list(flags)
    dataset = words.pop(0) if words and not words[0].startswith("-") else None
    captioning = checking.Captioning(caption, caption_prompt) if caption is not None else None
    if caption_prompt is not None and captioning is None:
        raise ConfigError("--caption_prompt has an effect only with --caption.")
    wanted = checking.Written(page, preview_dataset, card, croissant)
    return checking.check(dataset, words, wanted, as_json=json, captioning=captioning)
