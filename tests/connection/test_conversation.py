"""The conversation without a server: what is said after which answer, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import exceptions as redis_errors
from tests.connection.conftest import Scripts, call, read

from toril.connection.call import Call, Read, Resend
from toril.connection.conversation import Patience, converse, routing_key
from toril.connection.faults import FAULTS, Reaction, error_code, fault_of, typed_error
from toril.connection.route import check_server, route_for
from toril.connection.steps import Exchange, Forget, NotSent, Pause, ReplyLost
from toril.connection.url import parse_url
from toril.errors import (
    ConfigurationError,
    IndeterminateError,
    ServerError,
    ServerFull,
    ServerUnavailable,
)

Answer = type[NotSent] | type[ReplyLost] | Exception | list[Any]


class Play:
    """Runs a conversation against prepared answers, on a clock that only pauses move."""

    def __init__(self, url: str = "redis://h", patience: Patience | None = None) -> None:
        self._route = route_for(parse_url(url))
        self._patience = patience or Patience(total=10.0, recorded=90.0)
        self.now = 0.0
        self.said: list[tuple[str, str]] = []
        """Server and first words of every command."""
        self.pauses: list[float] = []
        self.forgotten: list[str] = []

    def run(self, request: Call[Any] | Read[Any], answers: Sequence[Answer]) -> Any:
        script = iter(answers)
        steps = converse(self._route, Scripts(), request, self._patience, lambda: self.now)
        reply: Any = None
        problem: Exception | None = None
        try:
            while True:
                step = steps.throw(problem) if problem else steps.send(reply)
                reply = problem = None
                match step:
                    case Exchange(server, commands) if commands[0] == ("INFO", "server"):
                        reply = [b"redis_version:7.2.4\r\n", b"maxmemory_policy:noeviction\r\n"]
                    case Exchange(server, commands):
                        self.said += [(str(server), str(command[0])) for command in commands]
                        answer = next(script)
                        if isinstance(answer, type):
                            problem = answer("broken", server)
                        elif isinstance(answer, Exception):
                            reply = [answer] * len(commands)
                        else:
                            reply = answer
                    case Pause(seconds):
                        self.pauses.append(seconds)
                        self.now += seconds
                    case Forget(server):
                        self.forgotten.append(str(server))
                    case _:
                        pytest.fail(f"unexpected step {step}")
        except StopIteration as done:
            return done.value


def response(text: str) -> redis_errors.ResponseError:
    return redis_errors.ResponseError(text)


def test_unknown_script_is_loaded_in_the_same_write() -> None:
    play = Play()
    unknown = redis_errors.NoScriptError("No matching script.")
    assert play.run(call("count"), [unknown, [b"sha", 7]]) == 7
    assert [word for _, word in play.said] == ["EVALSHA", "SCRIPT", "EVALSHA"]
    assert play.pauses == []


def test_server_that_drops_scripts_at_once_is_not_asked_for_ever() -> None:
    play = Play()
    unknown = redis_errors.NoScriptError("No matching script.")
    with pytest.raises(ServerError, match="drops scripts"):
        play.run(call("count"), [unknown] * 200)
    assert play.now <= 10


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
        redis_errors.TryAgainError("Multiple keys request during rehashing of slot"),
        response("BUSY Redis is busy running a script."),
        response("NOREPLICAS Not enough good replicas to write."),
        response("MISCONF Errors writing to the AOF file: No space left on device"),
    ],
)
@pytest.mark.parametrize("resend", list(Resend))
def test_what_passes_is_waited_for_whatever_the_call(error: Exception, resend: Resend) -> None:
    play = Play()
    assert play.run(call("count", resend=resend), [error, error, [1]]) == 1
    assert len(play.pauses) == 2
    assert play.forgotten == []
    with pytest.raises(ServerUnavailable):
        play.run(call("count", resend=resend), [error] * 200)


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.ReadOnlyError("You can't write against a read only replica."),
        redis_errors.MasterDownError("Link with MASTER is down"),
        redis_errors.ClusterDownError("The cluster is down"),
        response("UNBLOCKED force unblock from blocking operation, instance state changed"),
    ],
)
def test_server_that_is_no_longer_the_one_is_left(error: Exception) -> None:
    play = Play()
    assert play.run(call("count"), [error, [1]]) == 1
    assert play.forgotten == ["h:6379"]
    with pytest.raises(ServerUnavailable):
        play.run(call("count"), [error] * 200)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis_errors.OutOfMemoryError("command not allowed when used memory"), ServerFull),
        (redis_errors.NoPermissionError("no permissions to run 'set'"), ConfigurationError),
        (redis_errors.AuthenticationError("Authentication required."), ConfigurationError),
        (response("WRONGPASS invalid username-password pair"), ConfigurationError),
        (redis_errors.ClusterCrossSlotError("Keys don't hash"), ConfigurationError),
        (response("WRONGTYPE Operation against a key"), ServerError),
        (response("ERR unknown command"), ServerError),
        # As Redis 6.2 tells what happened within a script.
        (
            response(
                "ERR Error running script (call to f_6b1): @user_script:1: @user_script: 1: "
                "-OOM command not allowed when used memory > 'maxmemory'."
            ),
            ServerFull,
        ),
    ],
)
def test_what_does_not_pass_is_raised_at_once(error: Exception, kind: type[Exception]) -> None:
    play = Play()
    with pytest.raises(kind) as caught:
        play.run(call("count"), [error])
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
    assert play.pauses == []


def test_replica_of_redis_6_2_is_recognised_within_a_script() -> None:
    error = response(
        "ERR Error running script (call to f_6b1): @user_script:1: @user_script: 1: "
        "-READONLY You can't write against a read only replica."
    )
    assert fault_of(error).reaction is Reaction.MOVE


def test_every_fault_has_a_hint_and_a_code_of_its_own() -> None:
    for code, fault in FAULTS.items():
        assert fault.hint
        error = typed_error(response(f"{code} something"), "redis://h")
        assert isinstance(error, fault.error)
        assert fault.hint in str(error)
        assert error_code(response(f"{code} something")) == code


@pytest.mark.parametrize(
    "text", ["Connection closed by server.", "Error 111 connecting to h:1.", "", "Ünicode"]
)
def test_text_without_a_code(text: str) -> None:
    assert error_code(response(text)) == ""


# Lost replies and unreachable servers.


def test_refused_connection_is_tried_again_whatever_the_call() -> None:
    for resend in Resend:
        play = Play()
        assert play.run(call("count", resend=resend), [NotSent, NotSent, [1]]) == 1
        with pytest.raises(ServerUnavailable):
            play.run(call("count", resend=resend), [NotSent] * 200)


def test_pauses_double_and_end_with_the_patience() -> None:
    play = Play(patience=Patience(total=5.0))
    with pytest.raises(ServerUnavailable):
        play.run(call("count"), [NotSent] * 200)
    assert play.pauses[0] <= 0.02
    assert max(play.pauses) <= 1.0
    assert sum(play.pauses[-2:]) > 4 * sum(play.pauses[:2])
    assert 3.5 < play.now <= 5


def test_endless_patience() -> None:
    play = Play(patience=Patience(total=None))
    assert play.run(call("count"), [*([NotSent] * 500), [1]]) == 1
    assert play.now > 200


def test_lost_reply_is_a_doubt_at_once_if_sending_again_does_harm() -> None:
    play = Play()
    with pytest.raises(IndeterminateError) as caught:
        play.run(call("count"), [ReplyLost])
    assert caught.value.job_ids == ("job-1", "job-2")
    assert play.said == [("h:6379", "EVALSHA")]


@pytest.mark.parametrize("resend", [Resend.ALWAYS, Resend.RECORDED])
def test_after_a_lost_reply_every_end_is_a_doubt(resend: Resend) -> None:
    full = redis_errors.OutOfMemoryError("command not allowed")
    ends: list[list[Answer]] = [
        [ReplyLost, full],
        [ReplyLost] * 200,
        [ReplyLost, *([NotSent] * 200)],
    ]
    for answers in ends:
        with pytest.raises(IndeterminateError):
            Play().run(call("count", resend=resend), answers)
    assert Play().run(call("count", resend=resend), [ReplyLost, NotSent, [1]]) == 1


def test_recorded_call_is_not_sent_again_once_its_record_may_be_gone() -> None:
    play = Play(patience=Patience(total=None, recorded=30.0))
    with pytest.raises(IndeterminateError):
        play.run(call("count", resend=Resend.RECORDED), [ReplyLost, *([NotSent] * 200)])
    assert 28 < play.now <= 30
    # What was never sent leaves no record to rely on.
    assert play.run(call("count", resend=Resend.RECORDED), [*([NotSent] * 100), [1]]) == 1


def test_lost_reply_to_a_read_is_no_doubt() -> None:
    assert Play().run(read("GET", "k"), [ReplyLost, [b"v"]]) == b"v"
    with pytest.raises(ServerUnavailable):
        Play().run(read("GET", "k"), [ReplyLost] * 200)


def test_doubt_that_the_reply_tells_names_the_jobs() -> None:
    def late(_: Any) -> Any:
        raise IndeterminateError("a later call came first")

    with pytest.raises(IndeterminateError, match="later") as caught:
        Play().run(Call("count", ("k",), (), late, Resend.RECORDED, ("a", "b")), [[-20]])
    assert caught.value.job_ids == ("a", "b")


# Cluster.

SLOTS = [[0, 16383, [b"", 7000, b"id"]]]
CLUSTER = "redis+cluster://h:7000"


def test_moved_slot_is_remembered() -> None:
    play = Play(CLUSTER)
    moved = redis_errors.MovedError("7629 other:7001")
    assert play.run(call("count", key="{k}"), [[SLOTS], moved, [1]]) == 1
    assert play.run(call("count", key="{k}"), [[2]]) == 2
    assert play.said == [
        ("h:7000", "CLUSTER"),
        ("h:7000", "EVALSHA"),
        ("other:7001", "EVALSHA"),
        ("other:7001", "EVALSHA"),
    ]
    assert play.pauses == []


def test_moved_to_a_node_without_a_name_is_the_same_host() -> None:
    play = Play(CLUSTER)
    assert (
        play.run(call("count", key="{k}"), [[SLOTS], redis_errors.MovedError("7629 :7001"), [1]])
        == 1
    )
    assert play.said[-1] == ("h:7001", "EVALSHA")


def test_ask_is_waited_out_as_only_some_of_the_keys_are_over_there() -> None:
    play = Play(CLUSTER)
    ask = redis_errors.AskError("7629 other:7001")
    assert play.run(call("count", key="{k}"), [[SLOTS], ask, [1]]) == 1
    assert play.said == [("h:7000", "CLUSTER"), *[("h:7000", "EVALSHA")] * 2]
    assert len(play.pauses) == 1
    with pytest.raises(ServerUnavailable, match="moving"):
        play.run(Read((("GET", "{q}k"),), tuple), [ask] * 200)


def test_queue_without_a_hash_tag_is_refused_before_anything_is_sent() -> None:
    play = Play(CLUSTER)
    with pytest.raises(ConfigurationError, match="'bull:mail' has no hash tag"):
        play.run(call("count", key="bull:mail"), [])
    for other in ("bull:{}mail", "bull:{mail"):
        with pytest.raises(ConfigurationError, match="hash tag"):
            play.run(call("count", key=other), [])
    assert play.said == []


def test_replica_is_asked_for_the_map_when_the_only_primary_that_was_named_is_gone() -> None:
    play = Play(CLUSTER)
    with_replica = [[0, 16383, [b"h", 7000, b"id"], [b"r", 7001, b"id2"]]]
    promoted = [[0, 16383, [b"r", 7001, b"id2"]]]
    assert play.run(call("count", key="{k}"), [[with_replica], NotSent, [promoted], [1]]) == 1
    assert play.said[2:] == [("r:7001", "CLUSTER"), ("r:7001", "EVALSHA")]


def test_shards_are_asked_by_number() -> None:
    play = Play(CLUSTER)
    two = [[0, 99, [b"a", 1, b"id"]], [100, 199, [b"b", 2, b"id"]], [200, 16383, [b"a", 1, b"id"]]]

    def keys(shard: int) -> Read[list[object]]:
        return Read((("DBSIZE",),), list, shard)

    assert play.run(keys(0), [[two], [7]]) == [7]
    assert play.run(keys(1), [[8]]) == [8]
    assert play.run(keys(2), []) == []
    assert play.said == [("h:7000", "CLUSTER"), ("a:1", "DBSIZE"), ("b:2", "DBSIZE")]


def test_nodes_that_send_us_to_each_other_are_not_asked_for_ever() -> None:
    play = Play(CLUSTER)
    there, back = redis_errors.MovedError("7629 h:7001"), redis_errors.MovedError("7629 h:7000")
    with pytest.raises(ServerUnavailable, match="moving"):
        play.run(call("count", key="{k}"), [[SLOTS], *([there, back] * 200)])
    assert 8 < play.now <= 10


def test_map_is_asked_for_again_after_trouble() -> None:
    play = Play(CLUSTER)
    moved_map = [[0, 16383, [b"other", 7001, b"id"]]]
    assert play.run(call("count", key="{k}"), [[SLOTS], NotSent, [moved_map], [1]]) == 1
    assert play.said[-1] == ("other:7001", "EVALSHA")


def test_slot_that_nobody_holds_is_waited_for() -> None:
    play = Play(CLUSTER)
    hole = [[0, 100, [b"h", 7000, b"id"]]]
    assert play.run(call("count", key="{k}"), [[hole], [SLOTS], [1]]) == 1
    assert len(play.pauses) == 1


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("HMGET", b"k", "a"), b"k"),
        (("PING",), None),
        (("TIME",), None),
        (("CLIENT", "LIST"), None),
        (("SCAN", 0), None),
        (("MEMORY", "USAGE", "k"), "k"),
        (("OBJECT", "ENCODING", "k"), "k"),
        (("XREAD", "COUNT", 1, "STREAMS", "s", "t", "0", "0"), "s"),
        (("xread", "streams", "s", "0"), "s"),
    ],
)
def test_key_that_decides_the_node(command: tuple[Any, ...], key: object) -> None:
    assert routing_key(command) == key


# Versions.


@pytest.mark.parametrize(
    "info",
    [
        "redis_version:6.2.0",
        "redis_version:7.0.15\r\n",
        "redis_version:8.2",
        "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5",
        "redis_version:7.2.4\r\nvalkey_version:9.1.2",
        "",
    ],
)
def test_version_that_does(info: str) -> None:
    check_server([info], "redis://h")


@pytest.mark.parametrize(
    "info", ["redis_version:6.0.16\r\n", "redis_version:5.0", "redis_version:6"]
)
def test_version_that_does_not(info: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needed is Redis 6\.2"):
        check_server([info], "redis://h")


def test_evicting_server_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        check_server(["redis_version:7.2.4", "maxmemory_policy:allkeys-lru"], "redis://evicting")
    check_server(["redis_version:7.2.4", "maxmemory_policy:noeviction"], "redis://sound")
    assert [record.getMessage()[:16] for record in caplog.records] == ["redis://evicting"]
    assert "noeviction" in caplog.text
