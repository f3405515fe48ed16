"""A project of Django with tasks on Toril; steered by the environment."""

from __future__ import annotations

import os
from importlib.util import find_spec

SECRET_KEY = "of a test"
USE_TZ = True
INSTALLED_APPS = ["toril.integrations.django", "shop"]
if find_spec("django.tasks") is None:
    INSTALLED_APPS.append("django_tasks")
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_DATABASE"]}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TORIL = "toril.integrations.django.TorilBackend"
TASKS = {
    "default": {"BACKEND": TORIL, "QUEUES": ["default", "mail"], "OPTIONS": {"attempts": 2}},
    "now": {"BACKEND": TORIL, "QUEUES": ["now"], "OPTIONS": {"enqueue_on_commit": False}},
    "own": {"BACKEND": TORIL, "QUEUES": ["own"], "OPTIONS": {"app": "shop.jobs.app"}},
}
