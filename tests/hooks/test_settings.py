"""Settings as people give them."""

from __future__ import annotations

import getpass
from dataclasses import dataclass

import pytest

from toril.errors import ConfigurationError
from toril.plugins import by_this_user, on_this_host
from toril.setting import Said, Setting
from toril.settings import check_declared, say


@dataclass(frozen=True)
class Quota(Setting):
    name = "quota"
    limit: int = 1


@dataclass(frozen=True)
class Colour(Setting):
    name = "colour"


def test_what_is_said_is_noted_with_level_source_and_time() -> None:
    assert say("queue", [Quota(5), Colour()], "app.queue('mail')", 1000) == (
        Said(Quota(5), "queue", "app.queue('mail')", 1000),
        Said(Colour(), "queue", "app.queue('mail')", 1000),
    )
    assert say("job", [], "queue.add", 1) == ()


def test_two_of_one_kind_at_one_level() -> None:
    with pytest.raises(TypeError, match=r"queue\.add: two settings of kind Quota"):
        say("job", [Quota(1), Colour(), Quota(1)], "queue.add", 1)


@pytest.mark.parametrize(("value", "hint"), [("7d", "'7d' is not"), (Quota, r"write Quota\(")])
def test_what_is_no_setting(value: object, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        say("job", [value], "queue.add", 1)


def test_a_setting_that_no_plugin_in_use_declares() -> None:
    said = say("job", [Quota()], "queue.add", 1)
    check_declared(said, {"quota": Quota, "colour": Colour})
    check_declared((), {})
    with pytest.raises(ConfigurationError, match=r"queue\.add: no plugin in use declares.*Quota"):
        check_declared(said, {"colour": Colour})


def test_another_class_of_the_same_name_does_not_count() -> None:
    class Impostor(Setting):
        name = "quota"

    with pytest.raises(ConfigurationError):
        check_declared(say("job", [Quota()], "queue.add", 1), {"quota": Impostor})


def test_sources_name_user_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert on_this_host("app.worker") == "app.worker on box"
    assert by_this_user("toril queues set") == "toril queues set by ada on box"

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert by_this_user("x") == "x by unknown on box"
