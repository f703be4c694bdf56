"""An optimizer of one's own: the sign of the gradient, and nothing else."""
import mlx.core as mx
from mlx.optimizers import Optimizer

USED = []       # what the test looks at: the arguments with which it was made


class SignDescent(Optimizer):
    "Steps of equal length in every direction."

    def __init__(self, learning_rate: float, scale: float = 1.0):
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)
        self.scale = scale
        USED.append(scale)

    def init_single(self, parameter: mx.array, state: dict) -> None: "No state of a parameter is kept."

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        return parameter - self.scale * self.learning_rate.astype(gradient.dtype) * mx.sign(gradient)
