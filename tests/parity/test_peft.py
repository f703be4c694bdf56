"""Live against PEFT: an adapter that we save gives the same logits there, and one that PEFT saves the same here.

    pip install torch transformers peft && python -m pytest tests/parity/test_peft.py -s
"""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from tiny_architectures import CASES, architecture, texts, weight

torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")
peft = pytest.importorskip("peft", reason="peft is not installed; it is what we compare with")

from mlx_bert_training.models import create_model  # noqa: E402
from mlx_bert_training.models.adapters.lora import adapted, load_adapter, new_parts, save_adapter  # noqa: E402

transformers.utils.logging.disable_progress_bar()


def widened(model, names):
    "Wide values for the parameters that a name begins, or all of its kind."
    model.update(tree_unflatten([(name, mx.array(weight(name, value.shape)))
                                 for name, value in tree_flatten(model.parameters()) if names(name)]))
    return model.eval()


def logits(case, model, twin):
    "Ours and theirs."
    ids, mask, types = texts(case)
    given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    if types is not None: given["token_type_ids"] = torch.tensor(types).long()
    with torch.no_grad(): expected = twin(**given).logits.numpy()
    return np.array(model(*(None if a is None else mx.array(a) for a in (ids, mask, types)))), expected


def base(case, folder):
    "A pretrained model, and the one of transformers."
    model = create_model(config={"model_type": architecture(case).name, **CASES[case][1]}, head_type="multiclass",
                         num_labels=3)
    widened(model, lambda name: True).save_pretrained(folder)
    return lambda: transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_goes_both_ways(tmp_path, case, kind):
    theirs = base(case, tmp_path / "base")
    preset = "expressive" if "albert" in case else "balanced"
    model = create_model(pretrained=tmp_path / "base", adapter={"type": kind, "options": {"preset": preset}})
    parts = tuple(new_parts(model))
    widened(model, lambda name: "lora_" in name or name.startswith(parts))
    save_adapter(model, tmp_path / "ours")
    twin = peft.PeftModel.from_pretrained(theirs(), tmp_path / "ours").eval()
    here, there = logits(case, model, twin)
    plain = logits(case, create_model(pretrained=tmp_path / "base").eval(), theirs().eval())[0]
    assert np.abs(here - plain).max() > 1e-2        # the adapter does something
    twin.save_pretrained(tmp_path / "theirs")
    again = load_adapter(create_model(pretrained=tmp_path / "base"), tmp_path / "theirs").eval()
    same = bool(mx.array_equal(again(mx.array(texts(case)[0])), model(mx.array(texts(case)[0]))))
    print(f"\n{case:16}{kind:5} {len(adapted(model)):2} matrices  logits in peft {np.abs(here - there).max():.1e}  "
          f"their file here {'bit for bit' if same else 'DIFFERENT'}", end="")
    assert np.abs(here - there).max() < 1e-4 and same
