"""Options of the loss."""

from dataclasses import dataclass

from pipeline.errors import out_of_bounds


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What is minimised."""

    snr_gamma: float | None = None
    """Min-SNR weighting (Hang et al. 2023), 5.0 in the paper. Not given: every noise level weighs the same."""

    noise_offset: float = 0.0
    """Strength of a constant added to the noise of each channel; 0.02 to 0.1 helps very dark or bright data."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(self, noise_offset=(0, 1))
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            problems.append(
                f"--snr_gamma is {self.snr_gamma:g}, which would weigh every loss 0; use 5, or leave it out."
            )
        return problems
