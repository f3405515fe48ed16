"""Cases of plugin authors that need a strategy only, each plugin as its author would write it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.plugins.cases import (
    from_settings,
    remote_policy,
    tiers,
)
from tests.plugins.cases.vendors import VendorA, VendorB

from toril import ActiveJob, ConfigurationError, Job, Unrecoverable
from toril.testing import (
    AppOptions,
    DrivenApp,
    EmbeddedServer,
    finished_job,
)
from toril_plugins import Keep, Retention
from toril_plugins.testing import StrategyContract


async def work(job: ActiveJob) -> None:
    """Fails with the reason that the payload gives, if it gives one."""
    reason = job.get("reason", str)
    if reason is not None:
        raise Unrecoverable(reason)


async def rule_of(job: Job) -> tuple[str | None, str]:
    (rule,) = [fact for fact in await job.explain() if fact.subject == "rule"]
    return rule.level, rule.text


class TestTiers(StrategyContract):
    plugin = tiers
    samples = ({"customer": {"tier": "gold"}}, {"customer": {"tier": "lead"}})
    examples = (
        (finished_job("bills", "bill", {"customer": {"tier": "gold"}}), Keep(age="365d")),
        (finished_job("bills", "bill", {"customer": {"tier": "free"}}), Keep(age="1d")),
        (finished_job("bills", "bill", {"customer": {"tier": "lead"}}), None),
        (finished_job("bills", "bill", {"customer": "gold"}), None),
    )


class Page:
    """A page on which the rules stand."""

    def __init__(self) -> None:
        self.content = b""
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page.content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rules"
        self.write({})

    def write(self, rules: dict[str, str]) -> None:
        self.content = json.dumps(rules).encode()


@pytest.fixture
def page() -> Generator[Page]:
    made = Page()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


class TestRemotePolicy(StrategyContract):
    plugin = remote_policy.RemotePolicy
    examples = (
        (finished_job("mails"), Keep(age="7d")),
        (finished_job("bills", outcome="failed"), Keep(last=10)),
        (finished_job("others"), None),
    )

    @pytest.fixture
    def toril_options(self, page: Page) -> AppOptions:
        page.write({"mails": "7d", "bills": "10"})
        config = {"remote_policy": {"url": page.url, "every": "10ms"}}
        return {"plugins": [self.plugin, "persistence", "cleanup"], "config": config}

    async def test_what_is_written_later_holds_for_what_ends_later(
        self, toril_app: DrivenApp, page: Page
    ) -> None:
        await toril_app.runtime.start()
        (strategy,) = await self.functions(toril_app, "toril_plan_retention")
        page.write({"mails": "1d"})
        async with asyncio.timeout(10):
            while strategy.ask(job=finished_job("mails")) != Keep(age="1d"):
                await asyncio.sleep(0.01)

    async def test_a_page_that_breaks_changes_nothing(
        self, toril_app: DrivenApp, page: Page, caplog: pytest.LogCaptureFixture
    ) -> None:
        await toril_app.runtime.start()
        (strategy,) = await self.functions(toril_app, "toril_plan_retention")
        page.content = b"not JSON"
        async with asyncio.timeout(10):
            while "the old rules stay" not in caplog.text:
                await asyncio.sleep(0.01)
        assert strategy.ask(job=finished_job("mails")) == Keep(age="7d")

    async def test_without_the_page_the_plugin_is_broken_and_nobody_else(
        self, toril_server: EmbeddedServer, page: Page
    ) -> None:
        config: dict[str, Any] = {"remote_policy": {"url": "http://127.0.0.1:9/"}}
        async with DrivenApp(toril_server, plugins=[self.plugin, "*"], config=config) as app:
            info = app.runtime.plugins.info("remote_policy")
            assert info is not None
            assert info.status == "broken"
            await app.queue("mails").add("mail")
        config["required"] = ["remote_policy"]
        app = DrivenApp(toril_server, plugins=[self.plugin, "*"], config=config)
        with pytest.raises(ConfigurationError, match="could not start"):
            await app.queue("mails").add("mail")


async def test_the_application_says_what_holds_unless_somebody_says_otherwise(
    toril_server: EmbeddedServer, toril_url: str
) -> None:
    async with from_settings.make_app(toril_url) as app:
        app.queue("bills", Retention(completed="3650d"))
        for name in ("mails", "bills"):
            job = await app.queue(name).add("job")
            await app.worker(name, work).run(burst=True)
            level, text = await rule_of(job)
            assert (level, text) == {
                "mails": ("application", "7d"),
                "bills": ("queue", "3650d"),
            }[name]


@pytest.mark.parametrize(
    ("plugins", "combine", "level", "text"),
    [
        ([VendorA, VendorB, "*"], "first", "plugin vendor_a", "1d"),
        ([VendorB, VendorA, "*"], "first", "plugin vendor_b", "30d"),
        ([VendorA, VendorB, "*"], "longest", "plugin vendor_b", "30d"),
        ([VendorB, VendorA, "*"], "shortest", "plugin vendor_a", "1d"),
    ],
)
async def test_two_vendors_are_put_in_order_or_combined(
    toril_server: EmbeddedServer,
    toril_url: str,
    plugins: list[object],
    combine: str,
    level: str,
    text: str,
) -> None:
    config = {"cleanup": {"combine": combine}}
    async with DrivenApp(toril_server, plugins=plugins, config=config) as app:
        app.worker("jobs", work)
        job = await app.queue("jobs").add("job", {"reason": "on purpose"})
        await app.drain()
        assert await rule_of(job) == (level, text)
