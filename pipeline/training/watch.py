"""Between two steps: previews, the held-out loss, and whether it still falls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.adapter.adapted import Adapted
from pipeline.console import tell
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.validation import Validation
from pipeline.timer import PhaseTimer
from pipeline.training.state import TrainState


@dataclass(frozen=True)
class Watch:
    """Looks at the model where that is due, and notes the best weights in the state."""

    state: TrainState
    adapted: Adapted
    validation: Validation | None
    previews: Previews | None
    num_steps: int
    validation_steps: int  # optimizer steps between two held-out losses; 0: never
    preview_steps: int  # between two previews; 0: only at the end, when the run draws them itself
    patience: int | None
    told: Callable[[int], None]  # the status file
    timer: PhaseTimer

    def __call__(self, done: int) -> dict[str, Any]:
        """What was measured after `done` steps, for metrics.jsonl."""
        self.told(done)
        row: dict[str, Any] = {}
        last = done == self.num_steps
        with self.state.showing_current():
            if self.validation is not None and (last or (self.validation_steps and done % self.validation_steps == 0)):
                with self.timer.section("validate"):
                    row["validation"] = self.validation.measure(self.adapted)
            if self.previews is not None and self.preview_steps and (last or done % self.preview_steps == 0):
                with self.timer.section("draw"):
                    self.previews.draw_tuned(done)
        if row:
            loss, before = row["validation"]["held_out_loss"], row["validation"]["held_out_base"]
            self.state.note(done, loss)
            mark = "the lowest so far" if self.state.num_worse == 0 else f"no lower for {self.state.num_worse}"
            tell(f"step {done}/{self.num_steps}  held-out loss {loss:.4f} (base {before:.4f}), {mark}")
        return row

    @property
    def has_ended(self) -> bool:
        """Whether patience is at its end."""
        return self.state.has_stalled(self.patience)
