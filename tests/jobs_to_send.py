"""Jobs that workers can import: they wait, fail, die, or write down that they were done. And who listens."""
import os
import signal
import time
from pathlib import Path

from mlx_bert_training.callbacks import Callback
from mlx_bert_training.core.control import RunControl, RunStopped


class Heard:
    "A listener that remembers."

    def __init__(self): self.control, self.begun, self.ended, self.progress = RunControl(), [], [], []
    def on_job_begin(self, number): self.begun.append(number)
    def on_job_end(self, number, result): self.ended.append(number)
    def on_job_progress(self, number, facts): self.progress.append((number, facts))


class Counted:
    "Takes a while, and writes a line into a file each time it is done to its end."

    def __init__(self, folder, number, seconds=0.0):
        self.folder, self.number, self.seconds = Path(folder), number, seconds

    def run(self, control=None):
        control.report({"step": 1, "pid": os.getpid()})
        time.sleep(self.seconds)
        with (self.folder / f"done-{self.number}").open("a") as file: file.write("done\n")
        return self.number ** 2


class Threads:
    def run(self, control=None): return os.environ["OPENBLAS_NUM_THREADS"]


class Fails:
    def run(self, control=None): raise KeyError("no such column")


class Dies:
    def run(self, control=None): os.kill(os.getpid(), signal.SIGKILL)


class Waits:
    "Until it is asked to stop."

    def run(self, control=None):
        control.report({"step": 1})
        heard = []
        while not control.stop_wanted:
            heard += [request.action for request in control.take("pause", "resume", "learning_rate")]
            time.sleep(0.02)
        raise RunStopped(f"heard {', '.join(heard)}")


class DiesOnce(Counted):
    "Is killed the first time that it is done."

    def run(self, control=None):
        mark = self.folder / f"died-{self.number}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(control)


class DiesInMidFold(Callback):
    "Kills its process once, in the second epoch."

    def __init__(self, mark): self.mark = mark

    def on_epoch_end(self, trainer, state):
        if state.epoch != 1 or Path(self.mark).exists(): return
        Path(self.mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
