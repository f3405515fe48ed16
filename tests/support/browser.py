"""Debian's Chromium, driven by Selenium: installed where it is missing, one for all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
PROGRAMS = ("chromium", "chromedriver")
INSTALL_DEADLINE = 600.0  # seconds
LOCK = Path(tempfile.gettempdir()) / "toril-browser.lock"


class BrowserError(RuntimeError):
    """There is no browser, and it cannot be installed; the text says what to do."""


def missing() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


def install() -> None:
    """Have Chromium and its driver, from Debian's packages.

    Raises:
        BrowserError: They are not there, and this process cannot install them.
    """
    if not missing():
        return
    wanted = f"these tests need the programs {' and '.join(missing())}"
    by_hand = f"install Debian's packages {', '.join(PACKAGES)}"
    if shutil.which("apt-get") is None:
        raise BrowserError(f"{wanted}, and there is no apt-get to install them with: {by_hand}")
    if os.geteuid() != 0:
        raise BrowserError(f"{wanted}, and only root can install them: {by_hand}")
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing():
            _apt("update", "-qq")
            _apt("install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    if missing():
        raise BrowserError(f"{wanted}, although {', '.join(PACKAGES)} are installed")


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=INSTALL_DEADLINE,
        check=False,
    )
    if done.returncode != 0:
        told = done.stdout[-2000:]
        raise BrowserError(f"apt-get {arguments[0]} failed; its output ends:\n{told}")


@contextmanager
def browser() -> Generator[webdriver.Chrome]:
    """A Chromium without a window, with a profile of its own that goes with it."""
    install()
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it refuses to run as root otherwise
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1400,1000",
        "--force-prefers-reduced-motion",
        # Nothing but this machine is asked for anything.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()
