"""What plugin authors get: the façade, and specifications that explain themselves."""

from __future__ import annotations

import inspect

import pytest

import toril.plugins
from toril.hooks import hookspecs
from toril.hooks.dispatch import HOOK_OF
from toril.hooks.plugin_set import EVENT_HOOKS

HOOKS = [name for name in vars(hookspecs) if name.startswith("toril_")]


def test_all_is_sorted_complete_and_documented() -> None:
    names = toril.plugins.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in names:
        value = getattr(toril.plugins, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
    public = {
        name
        for name, value in vars(toril.plugins).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public == set(names)


def test_every_event_has_one_hook() -> None:
    assert set(HOOK_OF.values()) == EVENT_HOOKS
    assert set(HOOKS) >= EVENT_HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_a_specification_says_when_where_how_and_shows_an_example(name: str) -> None:
    hook = getattr(hookspecs, name)
    text = inspect.getdoc(hook) or ""
    for part in ("When:", "Where:", "def", "@hookimpl", f"{name}("):
        assert part in text, part
    assert "rror" in text or "as for `toril_jobs_saved`" in text
    assert all(
        parameter.default is parameter.empty
        for parameter in inspect.signature(hook).parameters.values()
    )
