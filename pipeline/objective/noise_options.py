"""Options of the noise that is added to the latents."""

from dataclasses import dataclass

from pipeline.errors import out_of_bounds


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """What the noise is made of."""

    noise_offset: float = 0.0
    """Scale of a constant added to the noise of each channel; 0.02 to 0.1 helps very dark or bright data. Not for
    flow models."""

    multires_noise_iterations: int = 0
    """Add coarser noise at so many scales, each two to four times as coarse as the one before (pyramid noise,
    Whitaker 2023): 6 to 10 helps what --noise_offset helps. Not for flow models."""

    multires_noise_discount: float = 0.3
    """What each coarser scale counts beside the one before, with --multires_noise_iterations."""

    input_perturbation: float = 0.0
    """Scale of noise that the model sees and is not asked to remove, 0.1 in the paper (Ning et al. 2023): at each step
    of sampling its own errors are of this kind."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = out_of_bounds(
            self,
            noise_offset=(0, 1),
            multires_noise_iterations=(0, 20),
            multires_noise_discount=(1e-3, 1),
            input_perturbation=(0, 1),
        )
        if self.multires_noise_discount != 0.3 and not self.multires_noise_iterations:
            problems.append("--multires_noise_discount has an effect only with --multires_noise_iterations.")
        if self.noise_offset and self.multires_noise_iterations:
            problems.append("--noise_offset and --multires_noise_iterations do the same thing; give one of them.")
        return problems

    def clashes(self, *, is_flow: bool) -> list[str]:
        """What has no meaning for the kind of model at hand, one sentence each."""
        given = ("noise_offset", "multires_noise_iterations")
        return [
            f"--{name} has no meaning here, for this is a flow model; leave it out."
            for name in given
            if is_flow and getattr(self, name)
        ]
