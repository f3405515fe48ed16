"""The two decorators of pluggy, made for Toril."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import pluggy

F = TypeVar("F", bound=Callable[..., Any])

PROJECT: Final = "toril"
PREFIX: Final = "toril_"
"""Every hook's name begins so."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
"""Marks a function that specifies a hook."""

hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method that implements a hook."""

ONLY_WHEN_SAID: Final = "toril_only_when_said"
"""The attribute that `only_when_said` sets."""


def only_when_said(function: F) -> F:
    """Mark a `toril_plan_save` that has nothing to say about most jobs; stands under `@hookimpl`.

    It is asked only about a job for which somebody has said something: settings for the job itself,
    its flow or schedule, or, for its queue, one that is declared with `at_save=True`. So it costs
    nothing where nobody has.
    """
    setattr(function, ONLY_WHEN_SAID, True)
    return function
