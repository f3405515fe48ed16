"""The two decorators of pluggy, made for Toril, and those that say when a hook is not asked."""

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


ONLY_FOR: Final = "toril_only_for"
"""The attribute that `only_for` sets."""


def only_for(condition: Callable[..., bool]) -> Callable[[F], F]:
    """Mark a `toril_plan_finish` that has nothing to say about most jobs; stands under `@hookimpl`.

    It is asked only about jobs for which `condition` holds. Where no plugin is to be asked, a
    finish costs no more than that question. A condition that raises counts as one that holds, and
    as an error of the plugin.

        class Tiers:
            def _has_tier(self, job: JobSnapshot) -> bool:
                return b"tier" in job.fields[b"data"]

            @hookimpl
            @only_for(_has_tier)
            def toril_plan_finish(self, job: FinishedJob) -> Json:
                return {"tier": job.get("customer.tier", str)}

    Args:
        condition: Gets the job as it was picked up, `JobSnapshot`; as a method of the plugin, if
            the hook is one. A look at the stored fields, without decoding, is what it is for.
    """

    def mark(function: F) -> F:
        setattr(function, ONLY_FOR, condition)
        return function

    return mark
