"""What is checked in a process of Django's own: `python checks.py NAME`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402
from shop import jobs  # noqa: E402
from shop.models import Order  # noqa: E402

from toril.errors import ConfigurationError, InvalidJob  # noqa: E402
from toril.integrations.django import TorilBackend  # noqa: E402
from toril.integrations.django.tasks import (  # noqa: E402
    InvalidTaskError,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
)
from toril.integrations.django.workers import app_with_workers  # noqa: E402

CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def prepare() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Order)


def work(backend: str = "default") -> None:
    """Run the workers here until nothing is left to do."""
    app = app_with_workers(backend)
    app.sync.close()

    async def run() -> None:
        async with app:
            for worker in app.workers:
                await worker.run(burst=True)

    asyncio.run(run())


def command(backend: str = "default") -> None:
    """The same in a process of its own."""
    words = [sys.executable, "manage.py", "toril_worker", "--backend", backend, "--", "--burst"]
    subprocess.run(words, check=True)


def queue(name: str = "default", backend: str = "default") -> Any:
    return task_backends[backend].app.sync.queue(name)


def raises(error: type[Exception], call: Callable[..., Any], *args: Any) -> str:
    try:
        call(*args)
    except error as raised:
        return str(raised)
    raise AssertionError(f"{error.__name__} was not raised")


@check
def tasks_of_both_kinds() -> None:
    order = Order.objects.create(customer="ada")
    plain, on_loop = jobs.pay.enqueue(order.pk, by="cash"), jobs.tell.enqueue("ada")
    assert plain.status == TaskResultStatus.READY
    assert plain.enqueued_at is not None
    assert not plain.is_finished
    before = timezone.now()
    command()
    for result in (plain, on_loop):
        result.refresh()
        assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
        assert result.attempts == 1
        assert before <= result.started_at <= result.finished_at
        assert result.last_attempted_at == result.started_at
    assert plain.return_value["by"] == "cash"
    assert plain.return_value["thread"].startswith("toril-job")
    assert on_loop.return_value == [order.pk, 1, "MainThread"]
    assert (plain.args, plain.kwargs) == ([order.pk], {"by": "cash"})
    order.refresh_from_db()
    assert order.paid
    job = queue().get(plain.id.partition(":")[2])
    assert job.name == "shop.jobs.pay"
    assert job.data == {"args": [order.pk], "kwargs": {"by": "cash"}}


@check
def results() -> None:
    result = jobs.pay.enqueue(1)
    assert jobs.pay.get_result(result.id).id == result.id
    assert asyncio.run(jobs.pay.aget_result(result.id)).status == TaskResultStatus.READY
    raises(Exception, jobs.fails.get_result, result.id)
    for id in ("default:nobody", "nobody", "other:" + result.id.partition(":")[2], ""):
        raises(TaskResultDoesNotExist, task_backends["default"].get_result, id)
    queue().remove(result.id.partition(":")[2])
    raises(TaskResultDoesNotExist, result.refresh)


@check
def a_task_that_fails() -> None:
    failing, strange = jobs.fails.enqueue(), jobs.unwritable.enqueue()
    work()
    for result, kind in ((failing, LookupError), (strange, TypeError)):
        result.refresh()
        assert result.status == TaskResultStatus.FAILED
        assert result.is_finished
        assert result.attempts == 2, "the backend's option"
        assert [error.exception_class for error in result.errors] == [kind, kind], result.errors
        raises(ValueError, lambda result=result: result.return_value)
    assert "nothing there" in failing.errors[0].traceback


@check
def on_commit() -> None:
    with transaction.atomic():
        result = jobs.pay.enqueue(1)
        assert result.enqueued_at is None
        assert queue().get(result.id.partition(":")[2]) is None
        at_once = jobs.at_once.enqueue()
        assert queue("now", "now").get(at_once.id.partition(":")[2]) is not None
    assert result.enqueued_at is not None
    result.refresh()
    assert result.status == TaskResultStatus.READY

    def broken() -> None:
        with transaction.atomic():
            jobs.pay.enqueue(2)
            raise ZeroDivisionError

    raises(ZeroDivisionError, broken)
    assert queue().counts()["prioritized"] == 1


@check
def from_async_code() -> None:
    async def produce() -> Any:
        order = await Order.objects.acreate(customer="eve")
        return order, await jobs.pay.aenqueue(order.pk)

    order, result = asyncio.run(produce())
    work()
    asyncio.run(result.arefresh())
    assert result.return_value["by"] == "card"
    order.refresh_from_db()
    assert order.paid


@check
def order_and_delay() -> None:
    tasks = [jobs.urgent.using(priority=priority) for priority in (-100, 0, 100)]
    results = [task.enqueue(number) for number, task in enumerate([*tasks, jobs.urgent])]
    later = jobs.urgent.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(9)
    stored = [job.snapshot.priority for job in queue().jobs("prioritized")]
    assert stored == [1, 96, 101, 201]
    work()
    for result in (*results, later):
        result.refresh()
    ended = sorted(results, key=lambda result: result.finished_at)
    assert [result.return_value for result in ended] == [2, 3, 1, 0]
    assert later.status == TaskResultStatus.READY
    assert queue().state(later.id.partition(":")[2]) == "delayed"


@check
def what_is_refused() -> None:
    assert "2^53" in raises(InvalidJob, jobs.pay.enqueue, 2**60)
    raises(TypeError, jobs.pay.enqueue, object())
    raises(InvalidTaskError, lambda: jobs.pay.using(priority=101))
    raises(InvalidTaskError, lambda: jobs.pay.using(queue_name="strange"))
    told = raises(ConfigurationError, TorilBackend, "typo", {"OPTIONS": {"adress": "x"}})
    assert "TASKS['typo']: there is no option 'adress'" in told
    assert queue().counts()["prioritized"] == 0


@check
def jobs_that_are_of_no_task() -> None:
    unknown = queue().add("shop.jobs.gone", {"args": []})
    no_task = queue().add("shop.jobs.SIGNALS", {})
    strange = queue().add("shop.jobs.pay", [1])
    work()
    reasons = [queue().get(job.id).reason for job in (unknown, no_task, strange)]
    assert reasons[0].startswith("no task 'shop.jobs.gone'"), reasons
    assert reasons[1].startswith("'shop.jobs.SIGNALS' is no task"), reasons
    assert reasons[2].startswith("task 'shop.jobs.pay': its payload is"), reasons


@check
def an_app_of_ones_own() -> None:
    result = jobs.mine.enqueue()
    assert task_backends["own"].app is jobs.app
    assert jobs.app.sync.queues() == ["own"]
    command("own")
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL


@check
def signals() -> None:
    Order.objects.create(customer="ada")
    jobs.pay.enqueue(1)
    jobs.fails.enqueue()
    jobs.tell.enqueue("ada")
    work()
    assert jobs.SIGNALS == [
        "started pay RUNNING", "finished pay SUCCESSFUL",
        "started fails RUNNING", "started fails RUNNING", "finished fails FAILED",
        "started tell RUNNING", "finished tell SUCCESSFUL",
    ], jobs.SIGNALS  # fmt: skip


@check
def the_system_check() -> None:
    call_command("check")


if __name__ == "__main__":
    prepare()
    CHECKS[sys.argv[1]]()
