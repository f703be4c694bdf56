"""Names of runs and paths of folders that no file system takes, or that lead out of the folder of the runs."""
import pytest

from mlx_bert_training.core.section import folder_problem, name_problem
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError

BAD = ["../../x", "..", "", "a/b", "a\\b", "a\0b", "x" * 5000, "é" * 150, "/etc/x", "a\nb", "."]
KEYS = ["run_name", "experiment_name"]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("key", KEYS)
def test_a_name_that_is_no_folder(name, key):
    with pytest.raises(ConfigError, match=f"environment.{key}") as error: load_config(None, **{key: name})
    assert len(str(error.value)) < 400 or len(name) > 400


@pytest.mark.parametrize("name", ["run", "fold-0.1", "été 3", "名前", "a..b", ".hidden", "x" * 200])
def test_a_name_that_will_do(name):
    assert name_problem(name) is None and load_config(None, run_name=name).environment.run_name == name


@pytest.mark.parametrize(("section", "values"), [
    ("environment", {"output_dir": "a\0b"}), ("environment", {"output_dir": "r/" + "x" * 5000}),
    ("environment", {"output_dir": ""}), ("kaggle", {"submission_dir": "s\0"}), ("kaggle", {"data_dir": "x" * 300}),
    ("kaggle", {"competition_name": "../../x"}), ("kaggle", {"competition_name": "x" * 5000}),
    ("kaggle", {"competition_name": "a\0b"})])
def test_a_folder_that_cannot_be(section, values):
    with pytest.raises(ConfigError, match=next(iter(values))): load_config({section: values})


def test_addresses_and_deep_folders_will_do():
    name = "https://www.kaggle.com/competitions/titanic/"
    assert load_config({"kaggle": {"competition_name": name}}).kaggle.competition_name == name
    assert folder_problem("/".join(["x" * 100] * 20)) is None
