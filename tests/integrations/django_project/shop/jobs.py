"""The tasks of the shop."""

from __future__ import annotations

import threading
from typing import Any

from shop.models import Order
from toril import App
from toril.integrations.django.tasks import TaskContext, task_finished, task_started
from toril.integrations.django.tasks import task_backends as backends

if hasattr(backends, "settings"):
    try:
        from django.tasks import task
    except ImportError:
        from django_tasks import task

app = App(prefix="mine")


@task
def pay(order: int, *, by: str = "card") -> dict[str, Any]:
    Order.objects.filter(pk=order).update(paid=True)
    return {"by": by, "thread": threading.current_thread().name}


@task(queue_name="mail", takes_context=True)
async def tell(context: TaskContext, customer: str) -> list[Any]:
    order = await Order.objects.aget(customer=customer)
    return [order.pk, context.attempt, threading.current_thread().name]


@task
def fails() -> None:
    raise LookupError("nothing there")


@task
def unwritable() -> object:
    return object()


@task(priority=5)
def urgent(number: int) -> int:
    return number


@task(backend="now", queue_name="now")
def at_once() -> None: ...


@task(backend="own", queue_name="own")
def mine() -> None: ...


SIGNALS: list[str] = []


def note(what: str, told: Any) -> None:
    result = told["task_result"]
    SIGNALS.append(f"{what} {result.task.name} {result.status}")


task_started.connect(lambda **told: note("started", told), weak=False)
task_finished.connect(lambda **told: note("finished", told), weak=False)
