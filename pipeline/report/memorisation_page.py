"""The page of memorisation: the figures in words, and the nearest pairs of pictures."""

from pathlib import Path

from pipeline import atomic
from pipeline.evaluation.memorisation import Memorisation
from pipeline.report.pictures import embedded
from pipeline.report.rendering import template

FILE = "report.html"
MOST_OF_CLIQUE = 4  # drawings that are shown
SAYS = {
    "by_loss": "the loss of a training picture fell by more than that of a held-out one",
    "by_drawing": "what is drawn from its caption is nearer to a training picture than to a held-out one",
    "by_sameness": "pictures drawn from a caption of training are more alike than those of a held-out one",
    "by_noise": "from pure noise, a caption of training leads further towards a picture than a held-out one",
}


def lines(found: Memorisation) -> list[str]:
    """The figures as text; 50 % is what an adapter that knows neither side would have."""
    said = [f"{figure.text('{:.0%}')}  {SAYS[name]}" for name, figure in found.figures.items()]
    distance = found.distance.text("{:.0%}")
    together = found.cliques
    said_of_cliques = (
        []
        if together is None
        else [
            f"{together.members} of {found.n}  training captions give nearly one and the same picture in "
            f"{together.least} or more of {together.of} drawings, of the held-out ones {together.others}"
        ]
    )
    return [
        *said,
        f"{distance}  of a held-out picture's distance lies between a training picture and its drawing",
        f"{found.num_copies} of {found.n}  training pictures have a drawing nearer than nearly all held-out ones "
        f"have one, where {found.chance:.1f} would be chance",
        *said_of_cliques,
        *(f"Left out, {reason}" for reason in found.left_out),
    ]


def write(folder: Path, name: str, found: Memorisation) -> Path:
    """Make the page beside the pictures."""
    copies = [
        {
            "drawn": embedded(folder / copy.drawn),
            "true": embedded(folder / copy.true),
            "caption": copy.caption,
            "name": copy.name,
            "text": f"{copy.distance:.3f} apart, where {copy.usual:.3f} is usual",
        }
        for copy in found.copies
    ]
    cliques = [
        {
            "drawn": [embedded(folder / drawn) for drawn in clique.drawn[:MOST_OF_CLIQUE]],
            "true": embedded(folder / clique.true),
            "caption": clique.caption,
            "name": clique.name,
            "text": f"{len(clique.drawn)} drawings nearly alike",
        }
        for clique in (found.cliques.shown if found.cliques is not None else ())
    ]
    text = template("memorisation.html").render(
        name=name,
        headline=found.words(),
        lines=lines(found),
        n=found.n,
        extractor=found.extractor,
        copies=copies,
        cliques=cliques,
    )
    path = folder / FILE
    atomic.write_text(path, text)
    return path
