"""The error tree: one line each, with what, got, expected and what to do."""

from __future__ import annotations

import inspect
import sys

import pytest

from reactometer import cli, errors
from reactometer.cli_doctor import name_of
from reactometer.errors import DataError, ReactometerError, suggestion


def _run(*arguments: str) -> None:
    """The command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reactometer", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise


def test_a_message_is_one_line_with_all_parts() -> None:
    error = DataError("a.csv: label Joy\nis off", got=7, expected="[0, 1]", fix="Rescale it")
    assert str(error) == "a.csv: label Joy is off (got 7; expected [0, 1]). Rescale it."


def test_parts_can_be_left_out() -> None:
    assert str(ReactometerError("it failed")) == "it failed."
    assert str(ReactometerError("it failed", fix="Try again.")) == "it failed. Try again."


def test_the_docstring_draws_every_class() -> None:
    classes = [
        name for name, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__
    ]
    assert len(classes) == 10
    assert all(name in (errors.__doc__ or "") for name in classes)
    assert all(issubclass(getattr(errors, name), ReactometerError) for name in classes)


def test_an_error_names_its_page_and_the_page_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("train", "nowhere.toml")
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: nowhere.toml")
    assert told[1] == "more: reactometer errors config"
    _run("errors", "config")
    page = capsys.readouterr().out
    assert page.startswith("config: A setting is unknown")
    assert "section.key=value" in page


@pytest.mark.parametrize("kind", ReactometerError.__subclasses__())
def test_every_kind_of_error_has_a_page(kind: type[ReactometerError], capsys: pytest.CaptureFixture[str]) -> None:
    _run("errors", name_of(kind))
    head, _, rest = capsys.readouterr().out.partition("\n\n")
    assert head.endswith(".")
    assert len(rest) > 200, "what it means and what to do"


def test_a_kind_of_error_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _run("errors", "medai")
    assert "no kind of error 'medai'. Did you mean 'media'?" in capsys.readouterr().err


def test_suggestions_ignore_case_and_fall_back_to_the_list() -> None:
    assert suggestion("Epoch", ["epochs", "seed"]) == "Did you mean 'epochs'?"
    assert suggestion("xyz", ["epochs", "seed"]) == "Known names: epochs, seed"
