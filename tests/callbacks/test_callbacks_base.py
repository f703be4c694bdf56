"""Events reach callbacks in order, callbacks are made from declarations, and mistakes are answered."""
import pytest

from mlx_bert_training.callbacks import base
from mlx_bert_training.callbacks.base import Callback, CallbackError, create_callback, register_callback
from mlx_bert_training.callbacks.registry import CALLBACKS
from mlx_bert_training.core.events import CallbackList
from mlx_bert_training.core.state import TrainerState
from mlx_bert_training.declaration.kinds import KindError
from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.protocols import EVENTS, CallbackProtocol
from mlx_bert_training.registry import RegistryError, import_object


class Recorder(Callback):
    "Writes down what it hears."
    def __init__(self, label: str, heard: list, order: int = 0):
        self.label, self.heard, self.order = label, heard, order

    def on_step(self, trainer, state):
        "Write it down."
        self.heard.append((self.label, trainer, state.step))

    def state_dict(self): return {"label": self.label}

    def load_state_dict(self, state): self.label = state["label"]


def test_low_orders_hear_first_and_equal_orders_keep_their_place():
    heard: list = []
    callbacks = CallbackList([Recorder("c", heard, 5), Recorder("a", heard), Recorder("d", heard, 90),
                              Recorder("b", heard)])
    callbacks.add(Recorder("first", heard, -1))
    callbacks.fire("on_step", "trainer", TrainerState(step=7))
    assert heard == [(label, "trainer", 7) for label in ("first", "a", "b", "c", "d")]


def test_every_event_can_be_fired_and_an_unknown_one_is_answered():
    callbacks = CallbackList([Callback()])
    for event in EVENTS: callbacks.fire(event, None, TrainerState())
    with pytest.raises(UnknownNameError, match="Did you mean 'on_step_end'"):
        callbacks.fire("on_stepend", None, TrainerState())


def test_only_overridden_methods_are_listed_also_through_inheritance():
    class Child(Recorder):
        def on_log(self, trainer, state): super().on_log(trainer, state)

    table = CallbackList([Callback(), Child("x", [])]).describe()
    assert [(r.event, r.callback, r.purpose) for r in table] == [
        ("on_step", "Child", "Write it down."), ("on_log", "Child", "")]
    assert str(CallbackList([]).describe()) == "no callback listens to anything"


def test_the_table_is_escaped():
    class Odd(Callback):
        name = "<b>"
        def on_log(self, trainer, state): "a < b"

    html = CallbackList([Odd()]).describe()._repr_html_()
    assert "&lt;b&gt;" in html and "a &lt; b" in html and "<b>" not in html


def test_an_error_keeps_its_type_and_names_its_origin():
    class Broken(Callback):
        def on_epoch_end(self, trainer, state): raise KeyError("x")

    with pytest.raises(KeyError) as caught: CallbackList([Broken()]).fire("on_epoch_end", None, TrainerState(step=3))
    if hasattr(caught.value, "add_note"):  # Python 3.11 and later
        assert caught.value.__notes__ == ["raised by callback Broken in on_epoch_end, after update 3"]


def test_a_callback_may_leave_while_it_is_called():
    heard: list = []

    class Once(Callback):
        def on_step(self, trainer, state):
            heard.append("once")
            callbacks.remove(self)

    callbacks = CallbackList([Once(), Recorder("stays", heard)])
    for _ in range(2): callbacks.fire("on_step", None, TrainerState())
    assert heard == ["once", ("stays", None, 0), ("stays", None, 0)]
    assert len(callbacks) == 1 and callbacks.find(Once) is None and callbacks.find(Recorder) is next(iter(callbacks))


def test_state_is_kept_by_name_and_two_of_a_kind_stay_apart():
    saved = CallbackList([Recorder("a", []), Callback(), Recorder("b", [])]).state_dict()
    assert saved == {"Recorder": {"label": "a"}, "Callback": {}, "Recorder-2": {"label": "b"}}
    restored = CallbackList([Recorder("", []), Recorder("", []), Recorder("new", [])])
    restored.load_state_dict(saved)
    assert [c.label for c in restored if isinstance(c, Recorder)] == ["a", "b", "new"]


@pytest.mark.parametrize("wrong", [Recorder, {"type": "early_stopping"}, object()])
def test_what_is_not_a_callback_is_refused(wrong):
    with pytest.raises(TypeError, match="not a callback"): CallbackList([wrong])


def test_something_that_fits_needs_no_base_class():
    class Fits:
        order = 1
        def on_log(self, trainer, state): state.stop_reason = "heard"
        def state_dict(self): return {}
        def load_state_dict(self, state): pass

    state = TrainerState()
    CallbackList([Fits()]).fire("on_log", None, state)
    assert state.stop_reason == "heard"


def test_every_registered_name_makes_a_callback():
    needed = {"learning_rate_scheduler": {"schedule": "math:sqrt"}, "distillation": {"teacher": "oof/teacher.npz"}}
    for name in CALLBACKS:
        assert isinstance(create_callback({"type": name, **needed.get(name, {})}), CallbackProtocol)


def test_arguments_arrive_and_wrong_ones_are_answered():
    assert getattr(create_callback({"type": "early_stopping", "patience": 7}), "patience") == 7  # noqa: B009
    with pytest.raises(UnknownNameError, match="Did you mean 'patience'"):
        create_callback({"type": "early_stopping", "patiance": 7})
    with pytest.raises(KindError, match="learning_rate_scheduler needs schedule"):
        create_callback("learning_rate_scheduler")
    with pytest.raises(CallbackError, match="needs a type"): create_callback({"patience": 3})
    with pytest.raises(UnknownNameError, match="Did you mean 'progress_bar'"): create_callback("progresbar")


def test_a_class_of_your_own_by_place_and_by_name(monkeypatch):
    monkeypatch.setattr(CALLBACKS, "entries", dict(CALLBACKS.entries))
    assert type(create_callback({"type": f"{base.__name__}:Callback"})) is Callback
    register_callback("mine", Recorder)
    made = create_callback({"type": "mine", "label": "x", "heard": [], "order": 4})
    assert isinstance(made, Recorder) and made.order == 4
    with pytest.raises(RegistryError, match="is not a callback"): create_callback("argparse:Namespace")


def test_what_is_no_callback_is_never_called(tmp_path):
    trace = tmp_path / "called"
    with pytest.raises(RegistryError, match="'os:system' is not a callback"):
        create_callback({"type": "os:system", "command": f"touch {trace}"})
    with pytest.raises(RegistryError, match="is not a callback"):
        create_callback({"type": "os:system", "options": {"command": f"touch {trace}"}})
    assert not trace.exists()


@pytest.mark.parametrize(("place", "words"), [
    ("no_such_module:X", "no module 'no_such_module'"),
    ("json.nowhere:X", "no module 'json.nowhere'"),
    ("collections:Countr", "Did you mean 'Counter'"),
    ("collections:", "unknown name"),
])
def test_a_place_that_does_not_exist(place, words):
    with pytest.raises(RegistryError, match=words): import_object(place)


def test_a_module_that_fails_to_import_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"): import_object("needs_more:X")
