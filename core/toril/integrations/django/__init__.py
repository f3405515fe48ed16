"""Django: a backend of `django.tasks`.

    TASKS = {
        "default": {
            "BACKEND": "toril.integrations.django.TorilBackend",
            "QUEUES": ["default"],
            "OPTIONS": {"url": "redis://localhost"},
        }
    }

Django has tasks since 6.0; before, the package django-tasks has the same, and is used then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["TorilBackend"]

if TYPE_CHECKING:
    from toril.integrations.django.backend import TorilBackend
else:

    def __getattr__(name: str) -> Any:
        # Django imports this package for its commands before its settings can be read.
        if name != "TorilBackend":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from toril.integrations.django.backend import TorilBackend

        return TorilBackend
