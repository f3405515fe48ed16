"""What an argument of a public method has to be: errors that say which one is wrong, and how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from toril.setting import Setting

T = TypeVar("T")


def whole_number(value: object, of: str, *, least: int = 0) -> int:
    """`value`, if it is a whole number that is not below `least`. `of` names the argument.

    Raises `TypeError` for anything but a number, `ValueError` for one that is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{of} is a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{of} is at least {least}, not {value!r}")
    return value


def limit_of(value: object, of: str = "limit", *, least: int = 1) -> int | None:
    """The same; None means no limit."""
    return None if value is None else whole_number(value, of, least=least)


def text(value: object, of: str) -> str:
    """`value`, if it is a text. Raises `TypeError`."""
    if not isinstance(value, str):
        raise TypeError(f"{of} is a text, not {value!r}")
    return value


def several(values: Iterable[T], of: str) -> tuple[T, ...]:
    """`values`, all at once. `of` names them. Raises `TypeError` for what is not several things."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{of} are given together, as a list, not as one {type(values).__name__}")
    return tuple(values)


def name_of_queue(queue: object) -> str:
    """The name of a queue that is given as such or by its name. Raises `TypeError`."""
    name = queue if isinstance(queue, str) else getattr(queue, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"a queue is given as itself or by its name, not as {queue!r}")
    return name


def kind_of_setting(kind: Any) -> None:
    """Raises `TypeError` for anything but a class of settings."""
    if not isinstance(kind, type) or not issubclass(kind, Setting):
        raise TypeError(f"a kind of setting is a class such as EventValues, not {kind!r}")
