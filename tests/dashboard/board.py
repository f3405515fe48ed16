"""bull-board as a person uses it: by what can be read and clicked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

DEADLINE = 15.0  # seconds

_BY_TEXT = (
    ".//*[self::button or self::a or self::label or @role='menuitem' or @role='tab']"
    "[normalize-space()=$text]"
)


class Board:
    """The pages of one bull-board in one browser.

    Args:
        browser: Shows them.
        url: Where bull-board answers.
        pictures: Where `picture` writes; None: nowhere.
    """

    def __init__(self, browser: Chrome, url: str, pictures: Path | None) -> None:
        self._browser = browser
        self._url = url
        self._pictures = pictures

    def open(self, path: str) -> None:
        """Go to a page."""
        self._browser.get(self._url + path)

    def text(self, css: str = "body") -> str:
        """What can be read there."""
        return self._browser.find_element(By.CSS_SELECTOR, css).text

    def reads(self, *texts: str, css: str = "body") -> None:
        """Wait until all of these can be read, in whatever case."""

        def all_there() -> bool:
            found = self.text(css).lower()
            return all(text.lower() in found for text in texts)

        self.until(f"{texts} can be read in {css}", all_there)

    def until(self, what: str, holds: Callable[[], object]) -> None:
        """Wait until it holds; the page may be drawn anew meanwhile."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                if holds():
                    return
            except (StaleElementReferenceException, WebDriverException):
                pass
            if time.monotonic() > deadline:
                self.picture("failed")
                raise AssertionError(f"never came: {what}; the page reads:\n{self.text()}")
            time.sleep(0.02)

    def click(self, text: str, css: str = "body") -> None:
        """Click on what has this text."""
        path = _BY_TEXT.replace("$text", _quoted(text))

        def clicked() -> bool:
            for place in self._browser.find_elements(By.CSS_SELECTOR, css):
                for found in place.find_elements(By.XPATH, path):
                    if found.is_displayed():
                        found.click()
                        return True
            return False

        self.until(f"a click on {text!r} in {css}", clicked)

    def click_on(self, css: str) -> None:
        """Click on the first element that a selector finds."""

        def clicked() -> bool:
            self._browser.find_element(By.CSS_SELECTOR, css).click()
            return True

        self.until(f"a click on {css}", clicked)

    def choose(self, item: str) -> None:
        """Open the menu of the queue, and choose."""
        self.click_on("main button[aria-haspopup=menu]")
        self.click(item, "[role=menu]")

    def confirm(self) -> None:
        """Say yes to what the page asks for."""
        self.click("Confirm")

    def press(self, hint: str, job: str) -> None:
        """Press the button of a job that shows this hint when it is pointed at."""

        def pressed() -> bool:
            for button in self._buttons(job):
                ActionChains(self._browser).move_to_element(button).perform()
                if self._hint() == hint:
                    button.click()
                    return True
            return False

        self.until(f"the button {hint!r} of job {job}", pressed)

    def _buttons(self, job: str) -> list[WebElement]:
        path = f"//main//*[text()={_quoted(job)}]/ancestor::div[.//li//button][1]//li//button"
        return self._browser.find_elements(By.XPATH, path)

    def _hint(self) -> str:
        """The hint that is shown, once there is one."""
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            shown = self._browser.find_elements(By.CSS_SELECTOR, "[data-open][data-side]")
            if shown and shown[-1].text:
                return shown[-1].text
            time.sleep(0.02)
        return ""

    def count(self, css: str) -> int:
        """How many elements a selector finds."""
        return len(self._browser.find_elements(By.CSS_SELECTOR, css))

    def picture(self, name: str) -> None:
        """Write what is to be seen into the folder for pictures."""
        if self._pictures is not None:
            self._pictures.mkdir(parents=True, exist_ok=True)
            self._browser.save_screenshot(str(self._pictures / f"{name}.png"))


def _quoted(text: str) -> str:
    assert "'" not in text
    return f"'{text}'"
