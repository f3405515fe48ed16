"""What holds unless somebody says otherwise stands in the settings of the program."""

from __future__ import annotations

from toril import App
from toril_plugins import Retention

RETENTION = {"completed": "7d", "failed": "90d"}


def make_app(url: str) -> App:
    return App(url, Retention(**RETENTION))
