"""What the dashboard costs: the same updates with it and without any display, in turns, in a real kernel.

    python benchmarks/dashboard.py [--rounds 5] [--updates 40]

Each round trains a BERT of MiniLM's size on the demo data twice, once with the dashboard and once without, and compares
the time of an update, the first ten left out because they compile. Prints the ratio: median, lowest and highest.
"""
from __future__ import annotations

import argparse
import json

import nbformat
from nbclient import NotebookClient

CELL = """
import json, statistics, tempfile, time
from mlx_bert_training import Callback, ProgressBar, create_trainer
from mlx_bert_training.widgets import DashboardCallback

class Clock(Callback):
    "Notes when each update and all that listens to it is over."
    order = 1000
    def __init__(self): self.times = []
    def on_step(self, trainer, state): self.times.append(time.perf_counter())

def seconds(display):
    clock = Clock()
    trainer = create_trainer(callbacks=[display, clock], config={{
        "model": {{"pooling": "mean", "config": {{"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
                                                  "intermediate_size": 1536}}}},
        "data": {{"train_path": "demo:german_credit/train.csv", "target_column": "risk", "batch_size": 16,
                  "length_buckets": 1, "template": "{{checking_account}} {{saving_accounts}} {{purpose}} {{duration}} "
                  "{{credit_amount}} {{housing}} {{sex}} {{age}}"}},
        "training": {{"max_steps": {updates}, "eval_strategy": "no", "early_stopping": False, "save_strategy": "no"}},
        "environment": {{"output_dir": tempfile.mkdtemp()}}}})
    trainer.train()
    return (clock.times[-1] - clock.times[9]) / (len(clock.times) - 10)

rounds = []
for number in range({rounds}):
    order = [("with", DashboardCallback("notebook")), ("without", ProgressBar("off"))]
    rounds.append({{name: seconds(display) for name, display in order[::1 if number % 2 else -1]}})
print(json.dumps(rounds))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=40)
    args = parser.parse_args()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(**vars(args)))])
    NotebookClient(notebook, timeout=None).execute()
    printed = "".join(out.text for out in notebook.cells[0].outputs if out.output_type == "stream" and out.name == "stdout")
    rounds = json.loads(printed.strip().splitlines()[-1])
    ratios = sorted(r["with"] / r["without"] for r in rounds)
    print(f"an update without a display: {min(r['without'] for r in rounds):.3f} s at best")
    print(f"with the dashboard, ratio:   {ratios[len(ratios) // 2]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
