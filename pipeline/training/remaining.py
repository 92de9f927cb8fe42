"""How long a run still takes: its steps, what is due between them, and the pictures after the last."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.training.intervals import Intervals

PASSES_PER_EXAMPLE = 2.4  # forward passes that a step costs for each example: 2.1 to 2.4 by operations, 2.4 to 2.6 seen
WARM_UP = 2  # steps of a session that are slower than the others: what is compiled, chosen or first allocated


@dataclass(frozen=True)
class Beside:
    """What a run does beside its steps, in forward passes of the denoiser for one example."""

    validation: int = 0  # of each held-out loss; one more measures the base
    preview: int = 0  # of each time that previews are drawn
    at_end: int = 0  # of all pictures after the last step

    def validations_within(self, share: float, work: float) -> int:
        """How many held-out losses, the base's among them, take at most a share of a run whose steps take `work`."""
        return int(share / (1 - share) * (work + self.at_end) / self.validation)

    def measuring(self, num_steps: int, interval: int) -> int:
        """The passes of all held-out losses of a run, the base's among them; an interval of 0: there are none."""
        return self.validation * (1 - (-num_steps // interval)) if interval else 0


class Remaining:
    """Estimates from what a session has taken so far, by purpose; pauses do not count for steps."""

    def __init__(
        self,
        intervals: Intervals,
        beside: Beside,
        seconds_of: Callable[..., float],
        *,
        first_step: int,
        batch_size: int,
    ) -> None:
        """`seconds_of`: those of a timer; the base's held-out loss is measured by now. `batch_size`: of a step."""
        self._intervals, self._beside, self._seconds_of = intervals, beside, seconds_of
        self._first, self._batch_size = first_step, batch_size
        self._mark = first_step, self._stepping()
        self._base_validation = seconds_of("validate")

    def seconds(self, done: int) -> float | None:
        """Seconds until the run ends, once `done` steps are done; None while slow first steps are all that is known."""
        due = self._intervals
        if done <= self._first + WARM_UP:
            self._mark = done, self._stepping()
            if done < due.num_steps:
                return None
            step = self._stepping() / max(1, done - self._first)
        else:
            step = (self._stepping() - self._mark[1]) / (done - self._mark[0])
        with_adapter, without = self._forward_seconds(done, step)
        saves = due.checkpoints_left(self._first) - due.checkpoints_left(done)
        save = self._seconds_of("save") / saves if saves else 0.0
        passes = due.validations_left(done) * self._beside.validation + due.previews_left(done) * self._beside.preview
        return (
            (due.num_steps - done) * step
            + passes * with_adapter
            + self._beside.at_end * without
            + due.checkpoints_left(done) * save
        )

    def _stepping(self) -> float:
        return self._seconds_of("step", "data")

    def _forward_seconds(self, done: int, step: float) -> tuple[float, float]:
        """Of one pass for one example, with the adapter and without it or with weights that it is folded into.

        As held-out losses took it, of which the base's was the first and a cold one, or as a step lets expect.
        """
        by_step = step / (PASSES_PER_EXAMPLE * self._batch_size)
        if not (self._beside.validation and self._base_validation):
            return by_step, by_step
        without = self._base_validation / self._beside.validation
        number = self._intervals.validations_left(self._first) - self._intervals.validations_left(done)
        if not number:
            return max(without, by_step), without
        with_adapter = (self._seconds_of("validate") - self._base_validation) / (number * self._beside.validation)
        return with_adapter, min(without, with_adapter)
