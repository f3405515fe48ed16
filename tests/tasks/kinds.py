"""Types and functions whose annotations a task can look up: they are of a module."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic

from toril.plugins import Json


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


class Line(msgspec.Struct):
    start: Point
    end: Point
    tags: frozenset[str] = frozenset()


class Address(pydantic.BaseModel):
    street: str
    number: int = pydantic.Field(alias="no", gt=0)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    at: datetime
    price: Decimal


@dataclass
class Customer:
    name: str
    homes: list[Address] = field(default_factory=list)


HOME = Address(street="Calle Mayor", no=7)
AT = datetime(2026, 11, 23, 10, 0, 0, 123456, UTC)

VALUES: list[tuple[Any, Any]] = [
    (int, 2**53),
    (float, 2.5),
    (str, "å\N{EARTH GLOBE EUROPE-AFRICA}"),
    (bool, True),
    (None, None),
    (int | None, None),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (dict[str, int], {"a": 1}),
    (dict[int, str], {1: "a"}),
    (Literal["a", "b"], "b"),
    (bytes, b"\x00\xff"),
    (datetime, AT),
    (date, AT.date()),
    (timedelta, timedelta(days=1, seconds=5)),
    (Decimal, Decimal("10.10")),
    (UUID, UUID(int=7)),
    (Colour, Colour.BLUE),
    (Point, Point(1, 2)),
    (Line, Line(Point(1), Point(2, 3), frozenset({"t"}))),
    (list[Point | None], [Point(1), None]),
    (Annotated[int, msgspec.Meta(gt=3)], 4),
    (Address, HOME),
    (list[Address], [HOME]),
    (Address | None, HOME),
    (dict[str, Address], {"home": HOME}),
    (Strict, Strict(at=AT, price=Decimal("1.5"))),
    (Customer, Customer("Ada", [HOME])),
    (Annotated[int, pydantic.Field(gt=3)], 4),
    (pydantic.HttpUrl, pydantic.HttpUrl("https://example.org/")),
    (Any, {"any": [1, None]}),
]
"""Types, and a value of each."""

MISFITS: list[tuple[Any, Any, str]] = [
    (int, "3", "expected `int`, got `str`; it is '3'"),
    (int, 2.5, "expected `int`, got `float`; it is 2.5"),
    (list[int], [1, "x"], "expected `int`, got `str` at [1]; it is [1, 'x']"),
    (Point, {"x": 1, "y": None}, "expected `int`, got `null` at .y; it is {'x': 1, 'y': None}"),
    (Point, {}, "object missing required field `x`; it is {}"),
    (Colour, "green", "invalid enum value 'green'; it is 'green'"),
    (Annotated[int, msgspec.Meta(gt=3)], 3, "expected `int` >= 4; it is 3"),
    (datetime, "today", "invalid RFC3339 encoded datetime; it is 'today'"),
    (
        Address,
        {"street": "s", "no": -1},
        "no: Input should be greater than 0; it is {'street': 's', 'no': -1}",
    ),
    (Annotated[int, pydantic.Field(gt=3)], 3, "Input should be greater than 3; it is 3"),
    (
        Customer,
        {"name": "Ada", "homes": [{"street": "s"}]},
        """no: Field required; it is {'street': 's'} at .homes[0]; \
it is {'name': 'Ada', 'homes': [{'street': 's'}]}""",
    ),
    (str, 10**99, f"expected `str`, got `int`; it is 1{'0' * 79}…"),
]
"""Types, JSON that is not of them, and what is said of it."""


def with_json(value: int, any: Json, many: list[Json]) -> Json:
    return [value, any, *many]
