"""Numbers do not move from one version to the next, unless CHANGELOG.md says so."""

from __future__ import annotations

import pytest

import golden_numbers


@pytest.mark.parametrize(
    "name",
    [
        "formulas",
        pytest.param("drawn", marks=pytest.mark.slow),
        pytest.param("real", marks=[pytest.mark.slow, pytest.mark.shared]),
    ],
)
def test_the_numbers_are_the_golden_ones(name: str) -> None:
    golden = golden_numbers.read(name)
    apart = dict(golden_numbers.differences(golden, golden_numbers.MAKERS[name]()))
    assert len(golden) > 5
    assert not {key: f"{size:.3g} tolerances" for key, size in apart.items() if not size <= 1.0}


def test_a_change_of_the_golden_numbers_is_in_the_changelog() -> None:
    """The newest line "Numbers N" names the files as they are, and no older line has gone."""
    numbers, fingerprints = zip(*golden_numbers.changelog_entries(), strict=True)
    assert numbers == tuple(range(len(numbers), 0, -1))
    assert fingerprints[0] == golden_numbers.fingerprint(), (
        "python tests/golden_numbers.py --write tells what to add"
    )
    assert len(set(fingerprints)) == len(fingerprints)
