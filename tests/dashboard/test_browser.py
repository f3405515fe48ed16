"""Where there is no browser, and it cannot be installed, the tests say what to do."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support import browser


@pytest.mark.parametrize(("apt", "user", "why"), [(None, 0, "no apt-get"), ("apt", 7, "only root")])
def test_no_browser(monkeypatch: pytest.MonkeyPatch, apt: str | None, user: int, why: str) -> None:
    monkeypatch.setattr(shutil, "which", {"apt-get": apt}.get)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(browser.BrowserError, match=why) as error:
        browser.install()
    assert "chromium and chromedriver" in str(error.value)
    assert "install Debian's packages chromium, chromium-driver" in str(error.value)
