"""Flask: the synchronous face of an App, as an extension.

toril = Toril()

def create_app() -> Flask:
web = Flask(__name__)
web.config["TORIL_URL"] = "redis://localhost"
toril.init_app(web)
return web

@web.post("/orders")
def order() -> str:
return toril.queue("orders").add("charge", {"customer": "ada"}).id
"""

from __future__ import annotations

import atexit
from typing import Any, Final, Unpack, cast

from flask import Flask, current_app

from toril.app import App
from toril.errors import ConfigurationError
from toril.new_job import QueueDefaults
from toril.setting import Setting
from toril.sync import SyncApp, SyncQueue

_NAME: Final = "toril"


class Toril:
    """Toril in a Flask application.

    Args:
        web: The Flask application; None: `init_app` is called later.
        app: The App; None: one is made for each Flask application, of its configuration values
            `TORIL_URL` (None: the environment's) and `TORIL_PREFIX` (`"bull"`). Tasks are declared
            on an App, so a program with tasks gives its own.
    """

    def __init__(self, web: Flask | None = None, *, app: App | None = None) -> None:
        self._app = app
        if web is not None:
            self.init_app(web)

    def init_app(self, web: Flask) -> None:
        """Give a Flask application its App. It connects when it is first used."""
        config = cast("dict[str, Any]", web.config)
        app = self._app or App(config.get("TORIL_URL"), prefix=config.get("TORIL_PREFIX", "bull"))
        web.extensions[_NAME] = app
        # Flask tells nobody when an application ends: it does with its process.
        atexit.register(app.sync.close)

    @property
    def app(self) -> App:
        """The App of the Flask application at work.

        Raises `ConfigurationError` if `init_app` was not called with it.
        """
        found = current_app.extensions.get(_NAME)
        if not isinstance(found, App):
            raise ConfigurationError(
                "this Flask application has no App of Toril; call init_app(…) with it"
            )
        return found

    @property
    def sync(self) -> SyncApp:
        """Its synchronous face; any number of threads may use it."""
        return self.app.sync

    def queue(
        self, name: str, /, *settings: Setting, **defaults: Unpack[QueueDefaults]
    ) -> SyncQueue:
        """A queue; see `App.queue`."""
        return self.sync.queue(name, *settings, **defaults)
