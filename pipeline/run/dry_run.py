"""A dry run: everything checked, the plan printed. The same one again has nothing to check and loads no library.

The text of a plan is kept under all that it came from: the options, the examples, the files of the model, the code, the
libraries, what the environment says of processes and devices. Only the room on the disks is looked at anew.
"""

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline.config import Command
from pipeline.console import tell
from pipeline.data.manifest import Manifest
from pipeline.hashing import digest
from pipeline.remembered import cache_folder, remembered, settled, signature_of
from pipeline.run.preflight import RunData

LIBRARIES = ("accelerate", "datasets", "diffusers", "peft", "torch", "transformers")
ENVIRONMENT = ("ACCELERATE_", "CUDA", "FORCE_", "HIP_", "HSA_", "MASTER_", "NVIDIA_", "PYTORCH_", "ROCR_")
DEVICES = ("nvidia*", "kfd", "dri/render*", "accel*")  # below /dev
DONE = (
    "Dry run: everything checked; nothing encoded, trained or put into the output folder.\n"
    "More about the data: python -m pipeline check, with the same flags."
)
AGAIN = "Dry run: nothing has changed since the last one, which found everything right; this is its plan."


class DryRun:
    """The plan of a command line, as an earlier dry run of the same on the same printed it."""

    def __init__(self, command: Command, data: RunData, folder: Path) -> None:
        self._cache = cache_folder(command.run.data.cache_dir)
        self._name = _name_of(command, data, folder)

    def told_again(self) -> bool:
        """Tell the plan if it is known and there is still the room it needs."""
        found = self._recalled()
        if found is None or any(shutil.disk_usage(place).free < size for place, size in found["room"]):
            return False
        tell(found["text"])
        tell(AGAIN)
        return True

    def keep(self, text: str, room: list[tuple[Path, int]]) -> None:
        """Remember a plan, and how many bytes it wants where."""
        if self._name is not None:
            with remembered(self._cache, "plans", "plan", whole=False) as known:
                known.keep(self._name, [], {"text": text, "room": [(str(place), size) for place, size in room]})

    def _recalled(self) -> Any:
        if self._name is None:
            return None
        with remembered(self._cache, "plans", "plan", whole=False) as known:
            found = known.recall(self._name, [])
            return found if found is None or all(Path(place).exists() for place, _ in found["room"]) else None


def _name_of(command: Command, data: RunData, folder: Path) -> str | None:
    """A hash of all that the plan depends on; None where that cannot be told from here: a Hub model, a checkpoint."""
    run = command.run
    if os.environ.get("WORLD_SIZE", "1") != "1" or run.train.resume_from_checkpoint is not None:
        return None
    model, others = run.model, (run.adapter.init_lora, run.preview.clip_model_name_or_path)
    places = [Path(__file__).parents[1], model.local_folder, *(Path(place) for place in others if place is not None)]
    if model.pretrained_vae_model_name_or_path is not None:
        places.append(model.local_vae)
    if model.file is not None:
        places.append(model.file)
    signatures = [None if place is None else _signature_of_tree(place) for place in places]
    if None in signatures:
        return None
    facts = (
        sorted((name, repr(value)) for name, value in run.flat().items()),
        str(folder),
        sorted(command.yielding),
        command.notes,
        command.card,
        signatures,
        [_content_of(part) for part in (data.manifest, data.held_out, data.test_set, data.class_given)],
        repr(data.card),
        sys.version,
        [importlib.metadata.version(library) for library in LIBRARIES],
        sorted(pair for pair in os.environ.items() if pair[0].startswith(ENVIRONMENT)),
        sorted(str(path) for pattern in DEVICES for path in Path("/dev").glob(pattern)),
    )
    return digest(json.dumps(facts).encode())


def _content_of(manifest: Manifest | None) -> Any:
    if manifest is None:
        return None
    examples = [(example.id, example.name, str(example.size)) for example in manifest.examples]
    return manifest.origin, examples, manifest.skipped, manifest.duplicates, manifest.notes


def _signature_of_tree(place: Path) -> list[Any] | None:
    """The signatures of a file or of all files below a folder; None where one may still change unseen."""
    paths = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix != ".pyc")
    signatures = [(str(path), settled(signature_of(path), path)) for path in paths if path.is_file()]
    return None if any(signature is None for _, signature in signatures) else signatures
