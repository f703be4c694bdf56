"""A trainer of one's own: says that it was made."""
from mlx_bert_training import Trainer

USED = []


class Quiet(Trainer):
    "Trains as any other."

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        USED.append(type(self).__name__)
