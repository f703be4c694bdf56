"""What the dashboard costs: one training run in a real kernel, whose display is on and off in turns.

    python benchmarks/dashboard.py [--updates 240]

A small BERT trains on the demo data; for ten updates the dashboard listens and draws, for the next ten it does not. The
shorter an update, the more a drawing weighs: a larger model has less of it. Prints the ratio of the time of
neighbouring tens, and the share of all time that was spent in the code of the dashboard.
"""
from __future__ import annotations

import argparse
import json

import nbformat
from nbclient import NotebookClient

CELL = """
import json, tempfile, time
from mlx_bert_training import Callback, create_trainer
from mlx_bert_training.widgets import DashboardCallback

class Clock(Callback):
    "Notes when each update, and all that listens to it, is over."
    order = 1000
    def __init__(self): self.times = []
    def on_step(self, trainer, state): self.times.append(time.perf_counter())

class InTurns(DashboardCallback):
    "On for ten updates, off for ten; counts the time it takes."
    spent = 0.0
    def on_step(self, trainer, state):
        if (state.step - 1) // 10 % 2: return
        began = time.perf_counter()
        super().on_step(trainer, state)
        self.spent += time.perf_counter() - began

clock, display = Clock(), InTurns("notebook")
create_trainer(callbacks=[display, clock], config={
    "model": {"pooling": "mean", "config": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                                            "intermediate_size": 512}},
    "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "batch_size": 16,
             "length_buckets": 1, "template": "{checking_account} {saving_accounts} {purpose} {duration} "
             "{credit_amount} {housing} {sex} {age}"},
    "training": {"max_steps": UPDATES, "eval_strategy": "no", "early_stopping": False, "save_strategy": "no"},
    "environment": {"output_dir": tempfile.mkdtemp()}}).train()
print(json.dumps({"times": clock.times, "spent": display.spent}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=240, help="a multiple of 20 (default: %(default)s)")
    cell = CELL.replace("UPDATES", str(parser.parse_args().updates))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=None).execute()
    streams = [out.text for out in notebook.cells[0].outputs if out.output_type == "stream" and out.name == "stdout"]
    measured = json.loads("".join(streams).strip().splitlines()[-1])
    times = measured["times"]
    # The first twenty updates compile. A ten lasts from the end of the update before it to the end of its last.
    tens = [times[i + 9] - times[i - 1] for i in range(20, len(times) - 9, 10)]
    ratios = sorted(on / off for on, off in zip(tens[::2], tens[1::2], strict=False))
    share = measured["spent"] / (sum(tens[::2]) + times[9] - times[0])
    print(f"an update:  {min(tens) / 10:.3f} s at best")
    print(f"on / off:   {ratios[len(ratios) // 2]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), {len(ratios)} pairs")
    print(f"in its code: {share:.2%} of the time")


if __name__ == "__main__":
    main()
