from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest
import redis
from tests.lua.conftest import fill
from tests.lua.database import events
from tests.lua.running import Runner
from tests.lua.seeding import NOW, Q

from toril.connection.call import Procedure
from toril.errors import ConfigurationError
from toril.protocol.settings import SettingChange, read_live, set_live
from toril.protocol.settings_log import How, SettingEntry, read_log
from toril.setting import Level, Said, Setting
from toril.types import Json


@dataclass(frozen=True, slots=True)
class Colour(Setting):
    """A setting whose projection is the most specific value, and a second field if it is red."""

    name: ClassVar[str] = "colour"
    parts: tuple[str, ...]

    def encode(self) -> Json:
        return self.parts

    @classmethod
    def decode(cls, value: Json) -> Self:
        if not isinstance(value, list):
            raise ValueError(f"not a colour: {value!r}")  # noqa: TRY004 - the contract of decode
        return cls(tuple(str(part) for part in value))

    @classmethod
    def project(cls, live: Sequence[Said[Any]]) -> Mapping[str, str]:
        if not live:
            return {}
        wins = "-".join(live[0].value.parts)
        return {"wins": wins} | ({"red": "yes"} if wins == "red" else {})


RED, BLUE = Colour(("red",)), Colour(("light", "blue"))


def say(
    level: Level, value: Colour | None, how: How = "set", now: int = NOW, source: str = "test"
) -> Procedure[SettingChange[Colour]]:
    return set_live(Q, Colour, level, value, how=how, source=source, now=now)


def meta(raw: redis.Redis) -> dict[str, Any]:
    fields: Any = raw.hgetall(f"{Q}:meta")
    return {
        name: json.loads(value) if name.startswith("toril.said.") else value
        for name, value in fields.items()
    }


def test_a_value_and_its_projection(run: Runner, raw: redis.Redis) -> None:
    raw.hset(f"{Q}:meta", "version", "1")
    raw.hset(f"{Q}:meta", "toril.colour.own", "a field of the plugin's own")
    rest = meta(raw)
    change = run(say("queue", RED, source="me"))
    assert change == SettingChange(True, Said(RED, "queue", "me", NOW))
    stored = {"v": ["red"], "s": "me", "t": NOW, "how": "set"}
    assert meta(raw) == rest | {
        "toril.said.colour": {"queue": stored},
        "toril.colour.wins": "red",
        "toril.colour.red": "yes",
    }
    change = run(say("queue", BLUE, now=NOW + 1))
    assert change.replaced == Said(RED, "queue", "me", NOW)
    assert change.disagreement is None
    assert meta(raw).keys() == rest.keys() | {"toril.said.colour", "toril.colour.wins"}
    change = run(say("queue", None))
    assert (change.applied, change.standing) == (True, None)
    assert meta(raw) == rest


def test_the_most_specific_comes_first(run: Runner, raw: redis.Redis) -> None:
    run(say("application", RED, "declared"))
    run(say("worker", BLUE, "declared"))
    assert [said.level for said in run(read_live(Q, Colour))] == ["worker", "application"]
    assert meta(raw)["toril.colour.wins"] == "light-blue"
    run(say("queue", RED))
    said = run(read_live(Q, Colour))
    assert [(one.level, one.value) for one in said] == [
        ("queue", RED),
        ("worker", BLUE),
        ("application", RED),
    ]
    assert meta(raw)["toril.colour.wins"] == "red"
    run(say("queue", None))
    assert meta(raw)["toril.colour.wins"] == "light-blue"


def test_nothing_said(run: Runner) -> None:
    assert run(read_live(Q, Colour)) == ()


def test_what_was_set_stands_against_what_is_declared(run: Runner, raw: redis.Redis) -> None:
    run(say("queue", RED, source="a person"))
    before = meta(raw)
    change = run(say("queue", BLUE, "declared"))
    assert change == SettingChange(False, Said(RED, "queue", "a person", NOW))
    assert run(say("queue", None, "declared")).applied is False
    assert meta(raw) == before
    assert run(say("queue", BLUE)).applied is True


def test_declaring_the_same_again_changes_nothing(run: Runner, raw: redis.Redis) -> None:
    run(say("worker", BLUE, "declared", source="worker 1"))
    before = meta(raw)
    change = run(say("worker", BLUE, "declared", now=NOW + 9, source="worker 2"))
    assert change == SettingChange(True, Said(BLUE, "worker", "worker 1", NOW))
    assert meta(raw) == before


def test_declaring_nothing_takes_nothing_back(run: Runner, raw: redis.Redis) -> None:
    run(say("worker", BLUE, "declared"))
    assert run(say("worker", None, "declared")).applied is False
    assert run(read_live(Q, Colour)) != ()


@pytest.mark.parametrize("level", ["worker", "application"])
def test_two_that_differ_are_an_event(run: Runner, raw: redis.Redis, level: Any) -> None:
    run(say(level, RED, "declared", source="worker 1"))
    assert events(raw, Q) == []
    run(say(level, BLUE, "declared", now=NOW + 1, source="worker 2"))
    run(say(level, BLUE, "declared", now=NOW + 2, source="worker 3"))
    (event,) = events(raw, Q)
    assert event == {
        "event": "toril:disagreement", "setting": "colour", "level": level,
        "value": '["light","blue"]', "source": "worker 2", "instead": '["red"]', "of": "worker 1",
    }  # fmt: skip
    (said,) = run(read_live(Q, Colour))
    assert said.replaced == Said(RED, level, "worker 1", NOW)


def test_a_value_of_the_queue_is_no_disagreement(run: Runner, raw: redis.Redis) -> None:
    run(say("queue", RED, "declared"))
    run(say("queue", BLUE, "declared"))
    run(say("worker", RED))
    run(say("worker", BLUE))
    assert events(raw, Q) == []


def test_what_was_replaced_need_not_be_readable(run: Runner, raw: redis.Redis) -> None:
    run(say("worker", RED, "declared"))
    run(say("worker", BLUE, "declared"))
    stored = json.loads(str(raw.hget(f"{Q}:meta", "toril.said.colour")))
    stored["worker"]["over"]["v"] = {"garbled": 1}
    raw.hset(f"{Q}:meta", "toril.said.colour", json.dumps(stored))
    (said,) = run(read_live(Q, Colour))
    assert (said.value, said.replaced) == (BLUE, None)


def test_workers_that_differ_are_told(run: Runner) -> None:
    run(say("worker", RED, "declared", source="worker 1"))
    change = run(say("worker", BLUE, "declared", now=NOW + 1, source="worker 2"))
    assert change.applied is True
    before = Said(RED, "worker", "worker 1", NOW)
    assert change.standing == Said(BLUE, "worker", "worker 2", NOW + 1, before)
    assert change.disagreement == Said(RED, "worker", "worker 1", NOW)


def test_two_at_once_lose_nothing(run: Runner) -> None:
    first = say("queue", RED)
    request = next(first)
    answer = run(request)
    run(say("worker", BLUE, "declared"))
    asked = 0
    while True:
        try:
            request = first.send(answer)
        except StopIteration as stop:
            assert stop.value.applied is True  # noqa: PT017 - the result of a procedure
            break
        asked += 1
        answer = run(request)
    assert asked == 3  # refused, read again, stored
    assert [said.level for said in run(read_live(Q, Colour))] == ["queue", "worker"]


def test_sending_it_again_is_harmless(run: Runner) -> None:
    run(say("queue", RED))
    call = run.requests[-1]
    assert run(call) is False
    assert run(read_live(Q, Colour)) == (Said(RED, "queue", "test", NOW),)


@pytest.mark.parametrize(
    "stored",
    ["", "no json", "[]", '{"queue": 1}', '{"job": {"v": [], "s": "", "t": 1, "how": "set"}}',
     '{"worker": {"v": 7, "s": "", "t": 1, "how": "set"}}'],
)  # fmt: skip
def test_garbled_values_are_told(run: Runner, raw: redis.Redis, stored: str) -> None:
    raw.hset(f"{Q}:meta", "toril.said.colour", stored)
    with pytest.raises(ConfigurationError, match=r"toril\.said\.colour"):
        run(read_live(Q, Colour))
    with pytest.raises(ConfigurationError, match=r"toril\.said\.colour"):
        run(say("queue", RED))


def test_a_garbled_value_can_be_replaced(run: Runner, raw: redis.Redis) -> None:
    garbled = {"worker": {"v": 7, "s": "", "t": 1, "how": "declared"}}
    raw.hset(f"{Q}:meta", "toril.said.colour", json.dumps(garbled))
    assert run(say("worker", RED, "declared")).applied is True
    assert run(read_live(Q, Colour)) == (Said(RED, "worker", "test", NOW),)


def test_only_live_levels(run: Runner) -> None:
    with pytest.raises(ConfigurationError, match="'job'"):
        run(say("job", RED))


def test_on_a_full_server(own_server: redis.Redis) -> None:
    run = Runner(own_server)
    fill(own_server)
    assert run(say("queue", RED)).applied is True
    assert meta(own_server)["toril.colour.wins"] == "red"


def test_who_said_what_and_what_it_was_before(run: Runner, raw: redis.Redis) -> None:
    run(say("queue", None))  # nothing was said, and nothing is
    assert run(read_log(Q, 10)) == ()
    run(say("worker", BLUE, "declared", NOW, "app.worker"))
    run(say("worker", BLUE, "declared", NOW + 1, "app.worker"))  # as it stands already
    run(say("queue", RED, source="me", now=NOW + 2))
    run(say("queue", BLUE, "declared"))  # stands aside
    run(say("queue", BLUE, source="you", now=NOW + 3))
    run(say("queue", None, source="me", now=NOW + 4))
    assert run(read_log(Q, 10)) == (
        SettingEntry(NOW + 4, "colour", "queue", "set", "me", None, ["light", "blue"]),
        SettingEntry(NOW + 3, "colour", "queue", "set", "you", ["light", "blue"], ["red"]),
        SettingEntry(NOW + 2, "colour", "queue", "set", "me", ["red"], None),
        SettingEntry(NOW, "colour", "worker", "declared", "app.worker", ["light", "blue"], None),
    )
    assert [entry.at for entry in run(read_log(Q, 2))] == [NOW + 4, NOW + 3]


def test_the_history_is_bounded(run: Runner, raw: redis.Redis) -> None:
    for turn in range(0, 1500, 2):
        run(say("queue", RED, now=NOW + turn))
        run(say("queue", BLUE, now=NOW + turn + 1))
    assert 1_000 <= raw.xlen(f"{Q}:toril:said") < 1_200
    assert run(read_log(Q, 1))[0].at == NOW + 1_499
