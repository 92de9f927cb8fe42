"""The verbs of datasets."""

from pathlib import Path

from pipeline import console


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
