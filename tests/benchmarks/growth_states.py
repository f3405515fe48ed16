"""Queues of any size, made quickly: what BullMQ's format holds is written as it stands, by scripts
on the server, 2,000 jobs a call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import redis

PREFIX = "bull"
PRIORITIES = 10
_PART = 2000
_LATER = 3_600_000  # ms; what is delayed is not due while somebody measures

_JOBS = """
local q, state, first, last, now = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ended = state == 'completed' or state == 'failed'
local ids, scores = {}, {}
for n = first, last do
  local id = string.format('%s%08d', ARGV[6], n)
  ids[#ids + 1] = id
  local key = q .. ':' .. id
  local delay, priority = 0, 0
  if state == 'delayed' then delay = ARGV[7] + n end
  if state == 'prioritized' then priority = n % ARGV[8] + 1 end
  redis.call('HSET', key, 'name', 'send', 'data', ARGV[5], 'opts', '{"attempts":0}',
    'timestamp', now, 'delay', delay, 'priority', priority)
  if ended then
    redis.call('HSET', key, 'processedOn', now, 'finishedOn', now + n, 'atm', 1, 'ats', 1,
      state == 'completed' and 'returnvalue' or 'failedReason', 'null')
    scores[#scores + 1] = now + n
  elseif state == 'active' then
    redis.call('HSET', key, 'processedOn', now, 'ats', 1)
    redis.call('SET', key .. ':lock', 'somebody', 'PX', 3600000)
  elseif state == 'delayed' then
    scores[#scores + 1] = (now + delay) * 4096
  elseif state == 'prioritized' then
    scores[#scores + 1] = priority * 4294967296 + n
  end
end
if #scores == 0 then
  for n = 1, #ids, 4000 do
    redis.call('LPUSH', q .. ':' .. state, unpack(ids, n, math.min(n + 3999, #ids)))
  end
else
  for n, id in ipairs(ids) do
    redis.call('ZADD', q .. ':' .. state, string.format('%.0f', scores[n]), id)
  end
end
if state == 'prioritized' then redis.call('SET', q .. ':pc', last) end
"""
_SCHEDULES = """
local q, first, last, now, every = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
for n = first, last do
  local name = string.format('s%08d', n)
  local due = string.format('%.0f', now + every + n)
  local id = 'repeat:' .. name .. ':' .. due
  redis.call('HSET', q .. ':repeat:' .. name, 'name', 'send', 'every', every, 'ic', 1,
    'offset', (now + n) % every)
  redis.call('ZADD', q .. ':repeat', due, name)
  redis.call('HSET', q .. ':' .. id, 'name', 'send', 'data', '{}', 'opts',
    '{"attempts":0,"jobId":"' .. id .. '","repeatJobKey":"' .. name .. '","repeat":{"every":'
    .. every .. ',"count":1}}', 'timestamp', now, 'delay', every, 'priority', 0, 'rjk', name)
  redis.call('ZADD', q .. ':delayed', string.format('%.0f', due * 4096), id)
end
"""


def payload(size: int = 100) -> dict[str, str]:
    """Data whose JSON has about so many bytes."""
    return {"to": "ada@example.org", "text": "x" * max(size - 36, 0)}


def job_id(number: int, letter: str = "j") -> str:
    """The id of one of the jobs that `fill` made, counted from 1."""
    return f"{letter}{number:08d}"


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for first in range(1, count + 1, _PART):
        yield first, min(first + _PART - 1, count)


def fill(client: redis.Redis, queue: str, state: str, count: int, letter: str = "j") -> None:
    """Jobs in `wait`, `active` (with locks of an hour), `delayed` (from an hour on, a millisecond
    apart), `prioritized` (of ten priorities), `completed` or `failed` (a millisecond apart, the
    last one a minute ago). The first is the oldest."""
    data, now = json.dumps(payload()), time.time_ns() // 1_000_000
    if state in ("completed", "failed"):
        now -= count + 60_000
    script = client.register_script(_JOBS)
    for first, last in _parts(count):
        arguments: list[str | int] = [state, first, last, now, data, letter, _LATER, PRIORITIES]
        script(keys=[f"{PREFIX}:{queue}"], args=arguments)


def fill_schedules(client: redis.Redis, queue: str, count: int) -> None:
    """Schedules of an hour, a millisecond apart, each with its next run."""
    now, script = time.time_ns() // 1_000_000, client.register_script(_SCHEDULES)
    for first, last in _parts(count):
        script(keys=[f"{PREFIX}:{queue}"], args=[first, last, now, _LATER])


def strand(client: redis.Redis, queue: str, ids: list[str]) -> None:
    """The workers of these active jobs have vanished, and a check has noted them."""
    for start in range(0, len(ids), _PART):
        part = ids[start : start + _PART]
        client.unlink(*(f"{PREFIX}:{queue}:{id_}:lock" for id_ in part))
        client.sadd(f"{PREFIX}:{queue}:stalled", *part)
