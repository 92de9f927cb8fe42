"""When something is due between two steps: equal in every process, for all know it from the plan."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Intervals:
    """Optimizer steps between two of each kind; after the last step all are due, but for what is never."""

    num_steps: int
    checkpoint: int
    validation: int  # 0: after the last step only
    preview: int  # 0: never, for the end of the run draws its own
    validates: bool = True  # whether there is anything to validate with

    def checkpoint_due(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps."""
        return done % self.checkpoint == 0 or done == self.num_steps

    def validation_due(self, done: int) -> bool:
        """Whether the held-out loss is."""
        return self.validates and _due(done, self.validation, self.num_steps)

    def preview_due(self, done: int) -> bool:
        """Whether previews are."""
        return self.preview > 0 and _due(done, self.preview, self.num_steps)

    def anything_due(self, done: int) -> bool:
        """Whether the steps so far have to be waited for."""
        return self.checkpoint_due(done) or self.validation_due(done) or self.preview_due(done)

    def checkpoints_left(self, done: int) -> int:
        """How many are still to come after `done` steps."""
        return _left(done, self.checkpoint, self.num_steps)

    def validations_left(self, done: int) -> int:
        """How many held-out losses are."""
        return _left(done, self.validation, self.num_steps) if self.validates else 0

    def previews_left(self, done: int) -> int:
        """How often previews are."""
        return _left(done, self.preview, self.num_steps) if self.preview else 0


def _left(done: int, every: int, num_steps: int) -> int:
    if done >= num_steps:
        return 0
    return 1 if every == 0 else -(-num_steps // every) - done // every


def _due(done: int, every: int, num_steps: int) -> bool:
    return done == num_steps or (every > 0 and done % every == 0)
