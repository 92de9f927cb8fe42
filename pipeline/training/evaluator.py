"""Between two steps: previews, the held-out loss, and whether it still falls."""

from dataclasses import dataclass

from pipeline.adapter.denoiser import AdaptedDenoiser
from pipeline.console import tell
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.validation import ClassRow, ClassValidation, Validation, ValidationRow
from pipeline.timer import PhaseTimer
from pipeline.training.intervals import Intervals
from pipeline.training.state import TrainState
from pipeline.training.trackers import Trackers


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Looks at the model where that is due, and notes the best weights in the state."""

    state: TrainState
    denoiser: AdaptedDenoiser
    validation: Validation | None
    class_validation: ClassValidation | None
    previews: Previews | None
    trackers: Trackers
    intervals: Intervals
    patience: int | None
    timer: PhaseTimer

    def __call__(self, done: int) -> tuple[ValidationRow | None, ClassRow | None]:
        """Measure and draw what is due after `done` steps; the losses on what is not trained on, where that was."""
        validates = self.intervals.validation_due(done)
        draws = self.previews is not None and self.intervals.preview_due(done)
        row: ValidationRow | None = None
        class_row: ClassRow | None = None
        if not (validates or draws):
            return row, class_row
        with self.state.showing_current():
            with self.timer.section("validate"):
                if self.validation is not None and validates:
                    row = self.validation.measure(self.denoiser)
                if self.class_validation is not None and validates:
                    class_row = self.class_validation.measure(self.denoiser)
            if self.previews is not None and draws:
                with self.timer.section("draw"):
                    self.trackers.show(done, self.previews.draw_adapted(done))
        if row is not None:
            self._note(done, row)
        if class_row is not None:
            where = f"step {done}/{self.intervals.num_steps}"
            tell(f"{where}  loss of the class {class_row.loss:.4f} (base {class_row.base:.4f})")
        return row, class_row

    def _note(self, done: int, found: ValidationRow) -> None:
        loss, base = found.held_out_loss, found.held_out_base
        self.state.note(done, loss)
        mark = "the lowest so far" if self.state.num_worse == 0 else f"no lower for {self.state.num_worse}"
        tell(f"step {done}/{self.intervals.num_steps}  held-out loss {loss:.4f} (base {base:.4f}), {mark}")

    @property
    def has_ended(self) -> bool:
        """Whether patience is at its end."""
        return self.state.has_stalled(self.patience)
