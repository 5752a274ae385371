"""What a search tries: a range of numbers, or a list of values, for each of some keys of a configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reactometer.config import Config
from reactometer.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FORMS = "KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=VALUE,VALUE,..., e.g. training.learning_rate=1e-4..1e-2:log"
FIXED = ("out", "devices", "num_nodes", "strategy", "accelerator", "workers", "store")
"""Keys of ``training`` that do not change what a model learns."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both ends are whole."""

    key: str
    low: float
    high: float
    log: bool  # as likely between 1 and 10 as between 10 and 100

    @property
    def samples(self) -> tuple[str, ...]:
        """What must be possible: its ends, as overrides."""
        return f"{self.key}={self.low!r}", f"{self.key}={self.high!r}"

    def own(self, config: Config) -> float | None:
        """What a configuration has, where that is among what is tried."""
        value = _value(config, self.key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and self.low <= value <= self.high else None

    def draw(self, trial: BaseTrial) -> str:
        """The value for one trial, as an override."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, log=self.log)}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, log=self.log)!r}"


@dataclass(frozen=True)
class Choice:
    """One of several values, as they would be written in an override."""

    key: str
    values: tuple[str, ...]

    @property
    def samples(self) -> tuple[str, ...]:
        """What must be possible: each of them, as overrides."""
        return tuple(f"{self.key}={value}" for value in self.values)

    def own(self, config: Config) -> str | None:
        """What a configuration has, where that is among what is tried."""
        value = str(_value(config, self.key))
        return value if value in self.values else None

    def draw(self, trial: BaseTrial) -> str:
        """The value for one trial, as an override."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"


def parse_space(texts: Sequence[str]) -> tuple[Range | Choice, ...]:
    """Read what is to be tried, a text a key; see :data:`FORMS`.

    Raises:
        ConfigError: a text is no such thing, a range is empty, or a key is no matter of a search.
    """
    if not texts:
        raise ConfigError("nothing to search over", expected=FORMS, fix="Give one or more --space")
    space = tuple(_parse(text) for text in texts)
    keys = [one.key for one in space]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"'{twice[0]}' is searched over twice", fix="Give each key once")
    return space


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _parse(text: str) -> Range | Choice:
    key, equals, values = (part.strip() for part in text.partition("="))
    section, _, name = key.partition(".")
    if not equals or not name or not values:
        raise ConfigError("not a space to search", got=f"'{text}'", expected=FORMS)
    if section in ("data", "prepare") or (section == "training" and name in FIXED):
        raise ConfigError(f"'{key}' is the same for all trials of a search", fix="Set it with --set")
    low, dots, rest = values.partition("..")
    if not dots:
        choices = tuple(value.strip() for value in values.split(","))
        if len(choices) < 2 or not all(choices):
            raise ConfigError("not a space to search", got=f"'{text}'", expected=f"two or more values: {FORMS}")
        return Choice(key, choices)
    high, colon, scale = rest.partition(":")
    if colon and scale != "log":
        raise ConfigError("no such scale of a range", got=f"'{scale}' in '{text}'", expected="log, or none")
    ends = [_number(end, text) for end in (low, high)]
    if not ends[0] < ends[1] or (colon and ends[0] <= 0):
        expected = "a low end above 0, and a higher one" if colon else "a low end, and a higher one"
        raise ConfigError("an empty range to search", got=f"'{text}'", expected=expected)
    return Range(key, ends[0], ends[1], bool(colon))


def _number(end: str, text: str) -> float:
    for kind in (int, float):
        try:
            number: float = kind(end)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    raise ConfigError("not a space to search", got=f"'{end}' in '{text}'", expected=f"a number: {FORMS}")
