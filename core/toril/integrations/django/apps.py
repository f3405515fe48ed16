"""What Django knows of Toril: the command `toril_worker`."""

from __future__ import annotations

from django.apps import AppConfig


class TorilConfig(AppConfig):
    """For `INSTALLED_APPS = ["toril.integrations.django", …]`."""

    name = "toril.integrations.django"
    label = "toril"
    verbose_name = "Toril"
