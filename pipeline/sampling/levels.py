"""How noisy the denoiser's input is at each of its calls, read from a stock scheduler."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.objective.paths import Prediction


@dataclass(frozen=True)
class Level:
    """The denoiser is given x_t = alpha x_0 + sigma noise, and answers with its prediction of something of the two."""

    alpha: float
    sigma: float
    time: float  # of the model: 0 is data, 1 is noise
    prediction: Prediction

    @property
    def ratio(self) -> float:
        """Noise over signal, the sigma of Karras et al. 2022: the same number for every kind of path."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def slope(self) -> float:
        """By how much x_0 moves with the prediction."""
        if self.prediction == "sample":
            return 1.0
        return -self.ratio if self.prediction == "epsilon" else -self.sigma

    def data(self, prediction: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x_0, if the prediction is right: as `split` of a training path does."""
        if self.prediction == "sample":
            return prediction
        if self.prediction == "epsilon":
            return (x_t - self.sigma * prediction) / self.alpha
        return (x_t if self.prediction == "flow" else self.alpha * x_t) - self.sigma * prediction


def level_at(scheduler: Any, step: int) -> Level:
    """The noise level at a step of a scheduler whose timesteps are set.

    Schedulers of the variance-exploding kind scale the denoiser's input back, so it is always that of training.
    """
    config = scheduler.config
    timestep = float(scheduler.timesteps[step])
    time = timestep / config.num_train_timesteps
    prediction = config.get("prediction_type", "flow_prediction")
    if prediction == "flow_prediction":
        sigma = float(scheduler.sigmas[step])
        return Level(1 - sigma, sigma, time, "flow")
    if hasattr(scheduler, "sigmas"):
        ratio = float(scheduler.sigmas[step])
        alpha = 1 / math.sqrt(1 + ratio**2)
        return Level(alpha, ratio * alpha, time, prediction)
    signal = float(scheduler.alphas_cumprod[int(timestep)])
    return Level(math.sqrt(signal), math.sqrt(1 - signal), time, prediction)
