"""Names of keys and of queues."""

from __future__ import annotations

import pytest

from toril.errors import ConfigurationError
from toril.protocol.keys import queue_key, queue_name, slot


def test_a_queue_s_key() -> None:
    assert queue_key("bull", "mail") == "bull:mail"
    assert queue_key("{app}:x", "my queue") == "{app}:x:my queue"
    assert queue_name("{app}:x:my queue") == "my queue"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("", "q"), ("bull", ""), ("bull", "a:b"), ("bull", "\ud800"), ("\ud800", "q")],
)
def test_names_that_cannot_be_keys_are_refused(prefix: str, name: str) -> None:
    with pytest.raises(ConfigurationError):
        queue_key(prefix, name)


@pytest.mark.parametrize(
    ("key", "number"),
    [
        # From the cluster specification and its reference values.
        ("123456789", 0x31C3 % 16384),
        ("foo", 12182),
        ("{user1000}.following", slot("user1000")),
        ("foo{}{bar}", slot(b"foo{}{bar}")),
        ("foo{{bar}}zap", slot("{bar")),
        ("foo{bar}{zap}", slot("bar")),
    ],
)
def test_slots(key: str, number: int) -> None:
    assert slot(key) == number


def test_an_empty_tag_counts_as_none() -> None:
    assert slot("foo{}{bar}") != slot("bar")
