"""The two decorators of pluggy, made for Toril."""

from __future__ import annotations

from typing import Final

import pluggy

PROJECT: Final = "toril"
PREFIX: Final = "toril_"
"""Every hook's name begins so."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
"""Marks a function that specifies a hook."""

hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method that implements a hook."""
