"""Any declaration: what is written is read, overrides win whatever their order, and nothing given is changed."""
from __future__ import annotations

from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_bert_training.declaration.load import load_config

VALUES = {
    "training": st.fixed_dictionaries({}, optional={
        "num_epochs": st.integers(1, 99), "label_smoothing": st.floats(0, 0.9), "logging_steps": st.integers(1, 99),
        "gradient_accumulation_steps": st.integers(1, 9), "baselines": st.booleans()}),
    "optimizer": st.fixed_dictionaries({}, optional={
        "learning_rate": st.floats(1e-6, 1.0), "weight_decay": st.floats(0, 1),
        "type": st.sampled_from(["adamw", "sgd"])}),
    "environment": st.fixed_dictionaries({}, optional={
        "seed": st.integers(0, 2**31),
        "run_name": st.from_regex(r"[A-Za-z0-9äß]([A-Za-z0-9 _.äß-]{0,19}[A-Za-z0-9_äß-])?", fullmatch=True),
        "experiment_name": st.sampled_from(["yes", "1e3", "null", "0x10", "12:30", "~x", "ünï"])})}
SECTIONS = st.fixed_dictionaries({}, optional=VALUES)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sections=SECTIONS, ending=st.sampled_from(["yaml", "json"]))
def test_what_is_written_is_read(tmp_path, sections, ending):
    config = load_config(deepcopy(sections))
    path = tmp_path / f"run.{ending}"
    config.save(path)
    assert load_config(path).to_dict() == config.to_dict()
    assert all(config.to_dict()[name][key] == value for name, part in sections.items() for key, value in part.items())


@settings(max_examples=60)
@given(below=SECTIONS, above=SECTIONS)
def test_overrides_win_and_leave_the_rest(below, above):
    kept = deepcopy(below)
    dotted = {f"{name}.{key}": value for name, part in above.items() for key, value in part.items()}
    merged = load_config(below, **dotted).to_dict()
    assert below == kept
    assert merged == load_config(below, **dict(reversed(dotted.items()))).to_dict()
    for name, part in kept.items():
        for key, value in part.items(): assert merged[name][key] == above.get(name, {}).get(key, value)
    for name, part in above.items():
        for key, value in part.items(): assert merged[name][key] == value
