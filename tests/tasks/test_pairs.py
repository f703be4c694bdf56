"""How alike two texts are, end to end by YAML: a second text column, its segment ids, a regression, correlations."""
import json

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.run import load, run_training

WORDS = ["amber", "birch", "cedar", "delta"]


@pytest.mark.long
def test_a_pair_is_read_as_two_segments_and_scored_by_correlation(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(4, size=(2, 240))
    frame = pd.DataFrame({"one": [f"the {WORDS[i]} here" for i in first], "other": [f"a {WORDS[i]}" for i in second],
                          "score": 5.0 * (first == second) + rng.normal(scale=0.1, size=240)})
    frame[:200].to_csv(tmp_path / "train.csv", index=False)
    frame[200:].to_csv(tmp_path / "valid.csv", index=False)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (tmp_path / "run.yaml").write_text(f"""\
model: {{head_type: regression, pooling: mean, dropout_rate: 0.0, config: {json.dumps(sizes)}}}
data: {{train_path: train.csv, validation_path: valid.csv, test_path: valid.csv, text_column: one,
        text_pair_column: other, target_column: score, batch_size: 20, num_workers: 0}}
optimizer: {{learning_rate: 0.005}}
training: {{num_epochs: 15, metrics: [pearson, spearman], best_metric: eval_pearson, save_strategy: no,
           early_stopping: false, baselines: true}}
environment: {{output_dir: {tmp_path}, run_name: alike, device: cpu, compile: false}}
""")
    run = run_training(tmp_path / "run.yaml")
    batch = next(iter(run.trainer.val_loader))
    types, mask = batch["token_type_ids"], batch["attention_mask"]
    assert set(types[mask > 0]) == {0, 1} and (np.diff(np.where(mask > 0, types, 1)) >= 0).all()
    assert run.result.metrics["eval_pearson"] > 0.7 > run.scores["pearson"].iloc[:2].fillna(0).max()
    assert run.result.metrics["eval_spearman"] > 0.4
    pairs = [("the birch here", "a birch"), ("the birch here", "a delta")]
    alike, apart = load(tmp_path / "alike").predict(pairs).values
    assert alike > apart + 1
