"""Tests that the error classes are distinct and match the docstring of shared/errors.py."""

import re

import pytest

from shared import errors
from shared.errors import AppError


def tree() -> list[type[AppError]]:
    """Every error class, parents before children."""
    found: list[type[AppError]] = [AppError]
    for one in found:
        found += [child for child in one.__subclasses__() if child.__module__ == errors.__name__ and child not in found]
    return found


def test_codes_are_distinct() -> None:
    codes = [one.code for one in tree()]
    assert len(set(codes)) == len(codes)


def test_the_docstring_draws_the_tree_with_every_status() -> None:
    drawn: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(?: +(\d{3}))?", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = (path[depth - 1] if depth else None, int(match[3] or 500))
    actual = {
        one.__name__: (one.__base__.__name__ if one.__base__ and one is not AppError else None, one.status)
        for one in tree()
    }
    assert drawn == actual


def test_errors_are_retryable_if_the_docstring_says_so() -> None:
    drawn = {
        match[1]
        for line in (errors.__doc__ or "").splitlines()
        if (match := re.match(r"^[│├└─ ]*([A-Z]\w+) +\d{3} +.*\bretryable\b", line))
    }
    assert drawn == {one.__name__ for one in tree() if one.retryable}


@pytest.mark.parametrize("error", tree(), ids=lambda one: one.__name__)
def test_the_docstring_is_the_default_message(error: type[AppError]) -> None:
    assert error.__doc__
    first_line = error.__doc__.strip().splitlines()[0]
    assert str(error()) == error().message == first_line
    assert error("what happened").message == "what happened"


@pytest.mark.parametrize("error", tree(), ids=lambda one: one.__name__)
def test_each_status_and_code_is_one_an_http_client_understands(error: type[AppError]) -> None:
    assert 400 <= error.status < 600
    assert re.fullmatch(r"[a-z_]+", error.code)
    assert not (error.retryable and error.status in (400, 401, 403, 404, 422)), "worth a retry, but not by its status"
