"""Any submission: what is built passes, and any one fault in it is found."""
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_bert_training.kaggle.submission import SubmissionError, build_submission, check_submission

IDS = st.lists(st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True), min_size=3, max_size=15, unique=True)


@settings(max_examples=60)
@given(ids=IDS, seed=st.integers(0, 999), fault=st.sampled_from(["twice", "missing", "extra", "nan", "header", "inf"]))
def test_one_fault_is_found(ids, seed, fault):
    sample = pd.DataFrame({"id": ids, "target": 0.5})
    values = np.random.default_rng(seed).random(len(ids))
    made = build_submission(values, sample)
    check_submission(made, sample)
    assert made["id"].tolist() == ids and np.allclose(made["target"].astype(float), values)
    where, hurt = seed % len(ids), made.copy()
    if fault == "twice": hurt.loc[where, "id"] = ids[where - 1]
    elif fault == "missing": hurt = hurt.drop(index=where)
    elif fault == "extra": hurt.loc[len(hurt)] = ["no-such-id", 0.5]
    elif fault == "header": hurt = hurt.rename(columns={"target": "Target"})
    else: hurt.loc[where, "target"] = {"nan": np.nan, "inf": np.inf}[fault]
    with pytest.raises(SubmissionError): check_submission(hurt, sample)
