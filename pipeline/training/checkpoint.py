"""Checkpoints that are complete or absent, and a resume that is exact."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pipeline import atomic
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.adapter.files import writer
from pipeline.adapter.names import FILE
from pipeline.console import tell
from pipeline.errors import CheckpointError, listed
from pipeline.hashing import digest
from pipeline.training.identity import Identity
from pipeline.training.state import TrainState

STATE, FACTS = "state.safetensors", "state.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    identity: Identity
    limit: int | None

    def save(self, step: int, state: TrainState, adapted: AdaptedModels) -> Path:
        """Write checkpoint-<step>, then remove what exceeds the limit."""

        def fill(folder: Path) -> None:
            atomic.write_tensors(folder / STATE, state.tensors())
            with state.showing_current():
                writer.write(folder, adapted, json.dumps({"step": step}))
            facts = {"step": step, "identity": self.identity.facts, "state": state.facts()}
            facts["digest"] = _digest(facts, folder)
            atomic.write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")

        path = self.folder / f"checkpoint-{step}"
        atomic.commit_folder(path, fill)
        self._remove_oldest(path)
        return path

    def find(self, which: str) -> Path | None:
        """The folder of 'latest' or of a path. Raises CheckpointError for a path that cannot be used.

        Of 'latest', damaged checkpoints are passed over with a message, unless all are; None when there is none.
        """
        if which != "latest":
            path = Path(which)
            problem = damage(path)
            if problem and (inside := existing(path)):
                problem = f"it is a run; give one of its checkpoints, the last is {inside[-1]}"
            if problem:
                raise CheckpointError(f"--resume_from_checkpoint {which}: {problem}.")
            return path
        damaged: list[str] = []
        for path in reversed(existing(self.folder)):
            problem = damage(path)
            if not problem:
                for said in damaged:
                    tell(said)
                return path
            damaged.append(f"{path} is passed over: {problem}")
        if damaged:
            raise CheckpointError(
                f"{self.folder} has no checkpoint that can be gone on from; put one back, or start anew with "
                f"--overwrite_output_dir:\n{listed(damaged)}"
            )
        return None

    def restore(self, path: Path, state: TrainState) -> int:
        """Load a checkpoint into the adapter, the optimizer and what goes with them; returns its step.

        Raises CheckpointError if it belongs to another adapter.
        """
        facts = _facts(path)
        try:
            state.load(load_file(path / STATE), facts["state"])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return int(facts["step"])

    def require_identity(self, path: Path) -> None:
        """Raise CheckpointError with every difference if a checkpoint was made by another run."""
        before, now = _facts(path)["identity"], self.identity.facts
        unknown = self.identity.unknown_in(before)
        if unknown:
            raise CheckpointError(
                f"{path} was made by another version of this program, for which something counted that this one does "
                f"not know. Go on with that version, or give another --output_dir:\n{listed(unknown)}"
            )
        changed = self.identity.changes_from(before)
        if changed:
            raise CheckpointError(
                f"{path} belongs to another run, so going on from it would not be exact. "
                f"Give the same options and data, or another --output_dir:\n{listed(changed)}"
                + (self._lengthening(before, now) if before.get("num_steps") != now.get("num_steps") else "")
            )

    def _lengthening(self, before: dict[str, Any], now: dict[str, Any]) -> str:
        """What to type to train on, where the number of steps differs: the rate's schedule depends on it."""
        more = int(now["num_steps"]) - int(before.get("num_steps", 0))
        if more <= 0:
            return ""
        if not (self.folder / FILE).is_file():
            length = before.get("num_steps")
            return f"\nThis run has not ended: go on with --max_train_steps {length}, then train on from its adapter."
        line = ["--config", f"{self.folder}/run.toml", "--init_lora", str(self.folder)]
        line += ["--output_dir", f"{self.folder}-more", "--max_train_steps", str(more)]
        return (
            f"\nTo train on for {more} step{'s' * (more > 1)} from its adapter: python train_lora.py {shlex.join(line)}"
        )

    def _remove_oldest(self, newest: Path) -> None:
        if self.limit is None:
            return
        own = [path for path in existing(self.folder) if _same_run(path, self.identity) and path != newest]
        for path in own[: max(0, len(own) + 1 - self.limit)]:
            atomic.remove_folder(path)


def existing(folder: Path) -> list[Path]:
    """The checkpoint folders in an output folder, by step."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def damage(path: Path) -> str:
    """Why a checkpoint cannot be used, or an empty string."""
    for name in (FACTS, STATE, FILE):
        if not (path / name).is_file():
            return f"{path / name} is missing"
    try:
        facts = _facts(path)
        if facts.pop("digest") != _digest(facts, path):
            return f"{path / STATE} or {FACTS} beside it is damaged"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path / FACTS} is damaged"
    return ""


def _facts(path: Path) -> dict[str, Any]:
    """Everything of a checkpoint that is no tensor."""
    found: dict[str, Any] = json.loads((path / FACTS).read_text(encoding="utf-8"))
    return found


def _digest(facts: dict[str, Any], folder: Path) -> str:
    """A hash of everything a resume reads: the tensors, and the facts without the hash itself."""
    return digest((folder / STATE).read_bytes() + json.dumps(facts, sort_keys=True).encode())


def step_of(path: Path) -> int:
    """The step of a checkpoint folder."""
    return int(_facts(path)["step"])


def _same_run(path: Path, identity: Identity) -> bool:
    try:
        facts = _facts(path)
    except (OSError, ValueError):
        return False
    return identity.is_of(facts.get("identity", {}))
