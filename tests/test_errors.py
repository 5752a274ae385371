"""The error tree: one line each, with problem, got, expected and hint."""

from __future__ import annotations

import inspect

import pytest

from reactometer import errors
from reactometer.errors import DataError, ReactometerError, suggestion


def test_a_message_is_one_line_with_all_parts() -> None:
    error = DataError("a.csv: label Joy\nis off", got=7, expected="[0, 1]", fix="Rescale it")
    assert str(error) == "a.csv: label Joy is off (got 7; expected [0, 1]). hint: Rescale it."


def test_parts_can_be_left_out() -> None:
    assert str(ReactometerError("it failed")) == "it failed."
    assert str(ReactometerError("it failed", fix="Try again.")) == "it failed. hint: Try again."


def test_the_docstring_lists_every_class() -> None:
    classes = [
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if value.__module__ == errors.__name__
    ]
    assert len(classes) == 10
    assert all(name in (errors.__doc__ or "") for name in classes)
    assert all(issubclass(getattr(errors, name), ReactometerError) for name in classes)


@pytest.mark.parametrize("kind", ReactometerError.__subclasses__())
def test_the_documentation_explains_every_error(kind: type[ReactometerError]) -> None:
    head, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    assert head.endswith(".")
    assert len(rest) > 100, "what it means and what to do"


def test_suggestions_ignore_case_and_fall_back_to_the_list() -> None:
    assert suggestion("Epoch", ["epochs", "seed"]) == "Did you mean 'epochs'?"
    assert suggestion("xyz", ["epochs", "seed"]) == "Known names: epochs, seed"
