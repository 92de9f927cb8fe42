"""How the captions and prompts of a run are read: in how many chunks, and what of them is not read at all."""

from collections.abc import Sequence

from pipeline.config import Run
from pipeline.data.buckets import Bucket, only_shown
from pipeline.data.manifest import Manifest, column
from pipeline.data.views import captions_to_keep
from pipeline.errors import DataError, listed
from pipeline.families import truncation
from pipeline.families.base import Family
from pipeline.families.truncation import SHOWN, chunks_needed, truncated
from pipeline.run.preflight import RunData


def in_chunks(run: Run, family: Family, data: RunData) -> tuple[Run, Family]:
    """The run with the number of chunks its longest text needs, and the family that reads so.

    It is kept in run.toml, for whatever draws with the adapter later.
    """
    if run.model.long_prompts != "chunks":
        return run, family
    if run.model.prompt_chunks is None:
        run = run.replaced(prompt_chunks=chunks_needed(family, _texts(run, data)))
    return run, family.told(run.model)


def read_in_steps(run: Run, manifest: Manifest, buckets: Sequence[Bucket], num_epochs: int) -> list[str]:
    """The captions that a run's steps read, each once; `buckets` hold what they show."""
    examples = only_shown(manifest.examples, buckets)
    if run.objective.reads_wrong_captions:
        examples = manifest.examples  # an example is shown with a caption of any other one
    return captions_to_keep(examples, num_epochs, run.train.seed)


def _texts(run: Run, data: RunData) -> list[str]:
    """Everything that is encoded: captions of all kinds and prompts."""
    parts = [part for part in (data.manifest, data.held_out, data.test_set, data.class_given) if part is not None]
    prompts = [*run.preview.validation_prompt, run.data.class_prompt, run.objective.preservation_prompt]
    return list(dict.fromkeys([*_captions(*parts), *filter(None, prompts)]))


def _captions(*parts: Manifest) -> list[str]:
    return [text for part in parts for texts in column(part.examples, "captions") for text in texts]


def cut(run: Run, family: Family, data: RunData) -> tuple[str, ...]:
    """A note for every caption and prompt whose end the text encoder never reads, with that end.

    Raises DataError that names them with --long_prompts error.
    """
    if run.model.long_prompts == "error":
        if lost := truncated(family, _texts(run, data)):
            lines = [f"{caption[:SHOWN]!r}... loses {end!r}" for caption, end in lost.items()]
            step = "make them shorter" + (", or read all of them with --long_prompts chunks" * family.read_by_clip)
            raise DataError(
                f"--long_prompts error: {len(lost)} caption(s) or prompt(s) are longer than the text encoder reads; "
                f"{step}.\n{listed(lines)}"
            )
        return ()
    return truncation.cut(family, [*_captions(data.manifest), *run.preview.validation_prompt])
