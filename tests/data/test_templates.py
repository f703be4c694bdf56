"""Rows to sentences: formats, missing values, and what a field may not be."""
from decimal import Decimal

import pandas as pd
import pytest
from stopwatch import at_most

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.templates import RowTemplate, parse_template, write_field
from mlx_bert_training.errors import DataError


def test_formats_defaults_and_integers():
    frame = pd.DataFrame({"sib sp": [2, None], "fare": [7.25, 80], "name": ["Ann", "Bo"], "ok": [True, False]})
    template = RowTemplate("{{{name}}} {sib sp} {fare:.2f} {fare} {ok} {sib sp:>3}", {"sib sp": "?"})
    assert template.columns == ["name", "sib sp", "fare", "ok"]
    assert template.render(frame) == ["{Ann} 2 7.25 7.25 True   2", "{Bo} ? 80.00 80 False ?"]


def test_decimals_in_a_frame_read_as_they_do_from_a_file():
    frame = pd.DataFrame({"price": [Decimal("2.50"), Decimal("3.00")]})
    assert RowTemplate("{price} {price:.2f}").render(frame) == ["2.5 2.50", "3 3.00"]


def test_column_default_goes_before_star_and_may_be_empty():
    frame = pd.DataFrame({"a": [None, "x"], "b": [None, "y"]})
    assert RowTemplate("{a}|{b}", {"a": "", "*": "none"}).render(frame) == ["|none", "x|y"]


def test_same_value_same_words_whatever_else_the_column_holds():
    template = RowTemplate("{x}")
    assert template.render(pd.DataFrame({"x": [2.0, 2.5]}))[0] == template.render(pd.DataFrame({"x": [2, 3]}))[0] == "2"
    assert template.render(pd.DataFrame({"x": [float("inf")]})) == ["inf"]


def test_missing_value_without_default_names_row_and_column(tmp_path):
    (tmp_path / "a.csv").write_text("age,town\n1,Ulm\n,Bonn\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'age'.*template_defaults: \{age: unknown\}"):
        RowTemplate("{age} {town}").render(read_frame(tmp_path / "a.csv"))


def test_unknown_columns():
    with pytest.raises(DataError, match="no column 'agee'. Did you mean 'age'?"):
        RowTemplate("{agee}").render(pd.DataFrame({"age": [1]}))
    with pytest.raises(DataError, match="'agee' is not in the template. Did you mean 'age'?"):
        RowTemplate("{age}", {"agee": "x"})


def test_value_that_does_not_fit_its_format():
    with pytest.raises(DataError, match=r"row 2, column 'x': 'b' does not fit \{x:d\}"):
        RowTemplate("{x:d}").render(pd.DataFrame({"x": [1, "b"]}))


@pytest.mark.parametrize("field", ["age.__class__", "age[0]", "age.real"])
def test_a_field_reaches_no_attribute_and_no_item(field):
    with pytest.raises(DataError, match="no column"):
        RowTemplate(f"{{{field}}}").render(pd.DataFrame({"age": [1]}))


def test_a_column_may_have_a_dot_in_its_name():
    assert RowTemplate("{credit.amount}").render(pd.DataFrame({"credit.amount": [5]})) == ["5"]


@pytest.mark.parametrize("text", ["no field", "{}", "{age", "age}", "{age!r}", "{age:{width}}"])
def test_broken_templates(text):
    with pytest.raises(DataError, match="template"): RowTemplate(text)


@pytest.mark.parametrize("column", ["time: text", "wow!", "a{b}", "{", 'say "hi": now', '"quoted"', "x!r:>5"])
def test_any_column_can_be_written_in_quotes(column):
    field = write_field(column)
    assert parse_template(f"a {field} b") == [("a ", column, ""), (" b", None, "")]
    template = RowTemplate(f"{{{{{field}}}}} {write_field(column, '>4')}")
    assert template.render(pd.DataFrame({column: [7]})) == ["{7}    7"]


def test_a_column_with_a_colon_is_taught_by_the_error():
    frame = pd.DataFrame({"time: text": ["noon"], "wow!": ["x"]})
    with pytest.raises(DataError, match=r"the column 'time: text' is written \{\"time: text\"\}"):
        RowTemplate("{time: text}").render(frame)
    with pytest.raises(DataError, match=r"stands in double quotes, \{\"wow!\"\}"): RowTemplate("{wow!}")
    with pytest.raises(DataError, match=r"such as template_defaults: \{\"time: text\": unknown\}"):
        RowTemplate('{"time: text"}').render(pd.DataFrame({"time: text": [None]}))


@pytest.mark.parametrize("spec", [">10001", ">1000000000", ".99999f", "9" * 5000])
def test_a_format_as_wide_as_the_memory_is_refused(spec):
    with pytest.raises(DataError, match="more than 10,000 characters"): RowTemplate(f"{{text:{spec}}}")


@pytest.mark.parametrize(("text", "message"), [
    ('{"a', "ends with a quote"), ('{"a"b}', "ends with a quote"), ('{""}', "needs the name"),
    ("{:d}", "needs the name"), ("{a{b}}", "not a column"),
    ("{text!r:>1000000000}", "a conversion such as !r is not needed")])
def test_what_cannot_be_read_says_what_to_write(text, message):
    with pytest.raises(DataError, match=message): RowTemplate(text)


@pytest.mark.parametrize("digits", ["1000000000", "１０００００００００", "٩٩٩٩٩٩٩٩٩"])
def test_a_width_in_any_digits_is_bounded(digits):
    with pytest.raises(DataError, match="asks for more than 10,000 characters"): RowTemplate(f"{{text:>{digits}}}")
    with pytest.raises(DataError, match="conversion such as !r"): RowTemplate(f"{{text!r:>{digits}}}")


def test_a_long_template_is_fast_and_its_message_short():
    frame = pd.DataFrame({"text": ["a", "b"]})
    with at_most(2):
        assert RowTemplate("{text}" * 50_000).render(frame)[1] == "b" * 50_000
        with pytest.raises(DataError) as refused: RowTemplate("x" * 100_000 + "}")
    assert len(str(refused.value)) < 1000
