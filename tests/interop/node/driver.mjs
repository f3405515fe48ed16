// BullMQ for Node behind the protocol of tests/support/driver.py: JSON lines in, JSON lines out.
// Usage: node driver.mjs PACKAGE URL PREFIX, packages from $TORIL_NODE_HOME/node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";

console.log = console.info = console.error; // standard output belongs to the protocol

const [packageName, address, prefix] = process.argv.slice(2);
const require = createRequire(join(process.env.TORIL_NODE_HOME, "package.json"));
const bullmq = require(packageName);
const { Queue, Worker, QueueEvents, FlowProducer, QueueEventsProducer, UnrecoverableError, DelayedError } = bullmq;

const parsed = new URL(address);
const connection = {
  host: parsed.hostname,
  port: Number(parsed.port || 6379),
  db: Number(parsed.pathname.slice(1) || 0),
  maxRetriesPerRequest: null,
};

const EVENTS = [
  "added", "waiting", "delayed", "waiting-children", "active", "completed", "failed",
  "retries-exhausted", "stalled", "progress", "removed", "duplicated", "deduplicated", "cleaned",
  "drained", "paused", "resumed",
];

class Unsupported extends Error {
  name = "Unsupported";
}

// -- what is open, closed again by `reset` ---------------------------------------------------------

let queues = new Map();
let workers = new Map();
let readers = new Map();
let boards = [];
let gates = new Map();
let happened = new Set(); // steps that are done only the first time a job comes by
let hands = new Map(); // workers that fetch only when they are told to, by queue
let taken = new Map(); // what they hold: job and token, by queue and id
let producer = null;
let serial = 0;
let era = 0; // counts the resets: a handler that outlives one must open nothing any more

async function queue(name) {
  if (!queues.has(name)) {
    const made = new Queue(name, { connection, prefix });
    made.on("error", (error) => console.error(error));
    queues.set(name, made);
    await made.waitUntilReady();
    await described(made);
  }
  return queues.get(name);
}

// A Queue writes its `meta` by itself, beside what it is asked to do; on a full server it cannot.
async function described(made) {
  for (let tries = 0; tries < 50 && !(await made.getVersion()); tries += 1) await sleep(10);
}

async function flows() {
  if (!producer) {
    producer = new FlowProducer({ connection, prefix });
    producer.on("error", (error) => console.error(error));
    await producer.waitUntilReady();
  }
  return producer;
}

async function job(params) {
  const found = await (await queue(params.queue)).getJob(params.id);
  if (!found) throw new Error(`no job ${params.id} in ${params.queue}`);
  return found;
}

const held = ({ queue: name, id }) => {
  if (!taken.has(`${name}:${id}`)) throw new Error(`no job ${id} of ${name} was taken`);
  return taken.get(`${name}:${id}`);
};

const errors = (kind, text) =>
  kind === "unrecoverable" ? new UnrecoverableError(text) : new Error(text);

// The time for everything that is made from here on; null: the machine's.
const MachineDate = Date;
let stopped = null;
globalThis.Date = class extends MachineDate {
  constructor(...told) {
    super(...(told.length || stopped === null ? told : [stopped]));
  }
  static now() {
    return stopped === null ? MachineDate.now() : stopped;
  }
};

function gate(name) {
  if (!gates.has(name)) {
    const made = {};
    made.reached = new Promise((resolve) => (made.reach = resolve));
    made.opened = new Promise((resolve) => (made.open = resolve));
    gates.set(name, made);
  }
  return gates.get(name);
}

function firstTime(job, step) {
  const key = `${job.queueName}:${job.id}:${step}`;
  if (happened.has(key)) return false;
  happened.add(key);
  return true;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const raise = (name, ...rest) => {
  if (!bullmq[name]) throw new Unsupported(`${packageName} has no ${name}`);
  throw new bullmq[name](...rest);
};

// -- the scripted handler --------------------------------------------------------------------------

async function handle(worker, job, token) {
  const begun = era;
  let result;
  const steps = (job.data && job.data.do) || [];
  for (const [index, [verb, ...args]] of steps.entries()) {
    switch (verb) {
      case "log":
        await job.log(args[0]);
        break;
      case "progress":
        await job.updateProgress(args[0]);
        break;
      case "sleep":
        await sleep(args[0]);
        break;
      case "update-data":
        await job.updateData(args[0]);
        break;
      case "gate":
        gate(job.name).reach();
        await gate(job.name).opened;
        break;
      case "fail":
        throw new Error(args[0]);
      case "fail-times":
        if (job.attemptsMade < args[0]) throw new Error(args[1]);
        break;
      case "unrecoverable":
        throw new UnrecoverableError(args[0]);
      case "delay":
        if (firstTime(job, index)) {
          await job.moveToDelayed(Date.now() + args[0], token);
          throw new DelayedError();
        }
        break;
      case "wait":
        if (firstTime(job, index)) {
          if (!bullmq.WaitingError) throw new Unsupported("moveToWait");
          await job.moveToWait(token);
          raise("WaitingError");
        }
        break;
      case "rate-limit":
        if (firstTime(job, index)) {
          await worker.rateLimit(args[0]);
          raise("RateLimitError");
        }
        break;
      case "child":
        if (firstTime(job, index)) {
          if (begun !== era) throw new Error("the test that this job belongs to is over");
          const [where, name, data, opts] = args;
          const parent = { id: job.id, queue: job.queueQualifiedName };
          await (await queue(where)).add(name, data, { ...opts, parent });
        }
        break;
      case "wait-children":
        if (await job.moveToWaitingChildren(token)) raise("WaitingChildrenError");
        break;
      case "children-values":
        result = Object.values(await job.getChildrenValues()).sort();
        break;
      case "return":
        result = args[0];
        break;
      default:
        throw new Error(`unknown verb ${verb}`);
    }
  }
  return result;
}

// -- bull-board ------------------------------------------------------------------------------------

async function board(names) {
  const { createBullBoard } = require("@bull-board/api");
  const { BullMQAdapter } = require("@bull-board/api/bullMQAdapter");
  const { ExpressAdapter } = require("@bull-board/express");
  const express = require("express");
  const adapter = new ExpressAdapter();
  adapter.setBasePath("/");
  const shown = [];
  for (const name of names) shown.push(new BullMQAdapter(await queue(name)));
  const options = { uiConfig: { showMetrics: true } };
  createBullBoard({ queues: shown, serverAdapter: adapter, options });
  const app = express();
  app.use("/", adapter.getRouter());
  const listening = await new Promise((resolve) => {
    const server = app.listen(0, "127.0.0.1", () => resolve(server));
  });
  boards.push(listening);
  return `http://127.0.0.1:${listening.address().port}`;
}

// -- the methods -----------------------------------------------------------------------------------

const plain = (node) => ({
  queue: node.job.queueName,
  name: node.job.name,
  id: node.job.id,
  children: (node.children || []).map(plain),
});

function flowNode({ queue, name, data, opts, children, prefix: own }) {
  const node = { queueName: queue, name, prefix: own || prefix, opts: opts || {} };
  if (data !== undefined) node.data = data;
  if (children && children.length) node.children = children.map(flowNode);
  return node;
}

async function flowView(node) {
  const children = [];
  for (const child of node.children || []) children.push(await flowView(child));
  const { id, name, queueName } = node.job;
  return { queue: queueName, name, id, state: await node.job.getState(), children };
}

const methods = {
  version: () => require(join(packageName, "package.json")).version,

  async reset() {
    era += 1;
    const closing = [];
    for (const each of gates.values()) each.open();
    for (const { worker } of workers.values()) closing.push(worker.close(true));
    for (const worker of hands.values()) closing.push(worker.close(true));
    for (const { reader } of readers.values()) closing.push(reader.close());
    for (const each of boards) closing.push(new Promise((done) => each.close(done)));
    for (const each of boards) each.closeAllConnections();
    await Promise.all(closing);
    for (const each of queues.values()) await each.close();
    if (producer) await producer.close();
    queues = new Map();
    workers = new Map();
    hands = new Map();
    taken = new Map();
    readers = new Map();
    boards = [];
    gates = new Map();
    happened = new Set();
    producer = null;
  },

  async add({ queue: name, name: jobName, data, opts }) {
    return (await (await queue(name)).add(jobName, data, opts)).id;
  },
  async add_bulk({ queue: name, jobs }) {
    return (await (await queue(name)).addBulk(jobs)).map((each) => each.id);
  },
  async add_flow({ flow }) {
    return plain(await (await flows()).add(flowNode(flow)));
  },

  async job({ queue: name, id }) {
    const found = await (await queue(name)).getJob(id);
    if (!found) return null;
    return {
      id: found.id,
      name: found.name,
      data: found.data,
      state: await found.getState(),
      progress: found.progress,
      result: found.returnvalue ?? null,
      reason: found.failedReason ?? null,
      attempts_made: found.attemptsMade,
      delay: found.delay,
      priority: found.priority,
    };
  },
  async counts({ queue: name }) {
    return await (await queue(name)).getJobCounts();
  },
  async ids({ queue: name, state, ascending }) {
    const found = await (await queue(name)).getJobs([state], 0, -1, ascending || false);
    return found.map((each) => each.id);
  },
  async logs({ queue: name, id }) {
    return (await (await queue(name)).getJobLogs(id)).logs;
  },
  async children(params) {
    const found = await (await job(params)).getDependencies();
    return { processed: found.processed || {}, unprocessed: found.unprocessed || [] };
  },
  async flow({ queue: name, id }) {
    return await flowView(await (await flows()).getFlow({ id, queueName: name, prefix }));
  },
  async workers({ queue: name }) {
    return (await (await queue(name)).getWorkers()).map((each) => each.name);
  },

  async prometheus({ queue: name, labels }) {
    const on = await queue(name);
    if (!on.exportPrometheusMetrics) throw new Unsupported("Prometheus metrics");
    return await on.exportPrometheusMetrics(labels);
  },
  async metrics({ queue: name, outcome, start, end }) {
    return await (await queue(name)).getMetrics(outcome, start, end);
  },
  async publish({ queue: name, event, fields, max }) {
    const made = new QueueEventsProducer(name, { connection, prefix });
    await made.publishEvent({ eventName: event, ...fields }, max);
    await made.close();
  },
  async readers({ queue: name }) {
    return (await (await queue(name)).getQueueEvents()).map((each) => each.rawname || each.name);
  },

  async wait_until_finished({ queue: name, id, ms }) {
    const reader = new QueueEvents(name, { connection, prefix });
    try {
      await reader.waitUntilReady();
      return (await (await job({ queue: name, id })).waitUntilFinished(reader, ms)) ?? null;
    } finally {
      await reader.close();
    }
  },
  async events_open({ queue: name, more }) {
    const reader = new QueueEvents(name, { connection, prefix, lastEventId: "0-0" });
    const seen = [];
    for (const event of [...EVENTS, ...(more || [])]) reader.on(event, (args) => seen.push({ event, ...args }));
    reader.on("error", (error) => seen.push({ event: "error", message: String(error) }));
    await reader.waitUntilReady();
    const handle = `events-${++serial}`;
    readers.set(handle, { reader, seen });
    return handle;
  },
  events_take: ({ handle }) => readers.get(handle).seen.splice(0),

  async worker({ queue: name, opts }) {
    const errors = [];
    const worker = new Worker(name, (job, token) => handle(worker, job, token), {
      connection,
      prefix,
      ...opts,
    });
    worker.on("error", (error) => errors.push(String(error.message || error)));
    await worker.waitUntilReady();
    const handleName = `worker-${++serial}`;
    workers.set(handleName, { worker, errors });
    return handleName;
  },
  async worker_close({ handle, force }) {
    await workers.get(handle).worker.close(force);
    workers.delete(handle);
  },

  clock: ({ ms }) => void (stopped = ms ?? null),
  async take({ queue: name }) {
    if (!hands.has(name)) {
      const made = new Worker(name, null, { connection, prefix, autorun: false });
      made.on("error", (error) => console.error(error));
      await made.waitUntilReady();
      hands.set(name, made);
    }
    let job, token;
    for (;;) {
      token = `token-${++serial}`;
      job = await hands.get(name).getNextJob(token, { block: false });
      if (!job) return null;
      if (!job.deferredFailure) break;
      // Whoever fetches by hand is left to do what a running worker does first.
      await job.moveToFailed(new UnrecoverableError(job.deferredFailure), token, false);
    }
    taken.set(`${name}:${job.id}`, { job, token });
    return { id: job.id, name: job.name, data: job.data, attempts_made: job.attemptsMade };
  },
  async complete(params) {
    const { job, token } = held(params);
    await job.moveToCompleted(params.value ?? null, token, false);
  },
  async fail(params) {
    const { job, token } = held(params);
    await job.moveToFailed(errors(params.kind, params.text), token, false);
  },
  async put_off(params) {
    const { job, token } = held(params);
    await job.moveToDelayed(Date.now() + params.ms, token);
  },
  async give_back(params) {
    const { job, token } = held(params);
    await job.moveToWait(token);
  },
  async await_children(params) {
    const { job, token } = held(params);
    return await job.moveToWaitingChildren(token);
  },

  worker_errors: ({ handle }) => workers.get(handle).errors,
  gated: async ({ name }) => void (await gate(name).reached),
  open_gate: ({ name }) => void gate(name).open(),

  pause: async (params) => void (await (await queue(params.queue)).pause()),
  resume: async (params) => void (await (await queue(params.queue)).resume()),
  drain: async (params) => void (await (await queue(params.queue)).drain(params.delayed || false)),
  async clean({ queue: name, grace, limit, state }) {
    return await (await queue(name)).clean(grace || 0, limit || 0, state);
  },
  async obliterate({ queue: name, force }) {
    await (await queue(name)).obliterate({ force: force || false });
  },
  async remove_orphaned({ queue: name }) {
    const on = await queue(name);
    if (!on.removeOrphanedJobs) throw new Unsupported("removal of orphaned jobs");
    return await on.removeOrphanedJobs();
  },
  async retry_all({ queue: name, state }) {
    await (await queue(name)).retryJobs({ state });
  },
  async promote_all({ queue: name }) {
    await (await queue(name)).promoteJobs();
  },
  async concurrency({ queue: name, value }) {
    const on = await queue(name);
    if (!on.setGlobalConcurrency) throw new Unsupported("global concurrency");
    await (value ? on.setGlobalConcurrency(value) : on.removeGlobalConcurrency());
  },
  async rate_limit({ queue: name, max, duration }) {
    const on = await queue(name);
    if (!on.setGlobalRateLimit) throw new Unsupported("global rate limit");
    await (max ? on.setGlobalRateLimit(max, duration) : on.removeGlobalRateLimit());
  },
  async hold_back({ queue: name, ms }) {
    await (await queue(name)).rateLimit(ms);
  },
  async go_on({ queue: name }) {
    await (await queue(name)).removeRateLimitKey();
  },
  async window_owner({ queue: name, window }) {
    return (await (await queue(name)).getDeduplicationJobId(window)) ?? null;
  },
  async close_window({ queue: name, window }) {
    return (await (await queue(name)).removeDeduplicationKey(window)) > 0;
  },
  async schedule({ queue: name, id, repeat, template }) {
    const made = await (await queue(name)).upsertJobScheduler(id, repeat, template);
    return made ? made.id : null;
  },
  async unschedule({ queue: name, id }) {
    return await (await queue(name)).removeJobScheduler(id);
  },

  async retry(params) {
    const { state, reset } = params;
    const opts = reset ? { resetAttemptsMade: true } : undefined;
    await (await job(params)).retry(state, opts);
  },
  async remove(params) {
    await (await job(params)).remove({ removeChildren: params.children !== false });
  },
  promote: async (params) => void (await (await job(params)).promote()),
  update_data: async (params) => void (await (await job(params)).updateData(params.data)),
  change_delay: async (params) => void (await (await job(params)).changeDelay(params.delay)),
  async change_priority(params) {
    const { priority, lifo } = params;
    await (await job(params)).changePriority({ priority, lifo });
  },
  progress: async (params) => void (await (await job(params)).updateProgress(params.value)),
  async log(params) {
    return await (await queue(params.queue)).addJobLog(params.id, params.text, params.keep);
  },
  clear_logs: async (params) => void (await (await job(params)).clearLogs(params.keep)),
  unlink: async (params) => await (await job(params)).removeChildDependency(),
  async remove_unprocessed(params) {
    await (await job(params)).removeUnprocessedChildren();
  },

  board: ({ queues: names }) => board(names),
};

// -- the loop --------------------------------------------------------------------------------------

const answer = (line) => process.stdout.write(JSON.stringify(line) + "\n");

async function serve({ id, method, params }) {
  try {
    if (!methods[method]) throw new Unsupported(method);
    const value = await methods[method](params);
    answer({ id, value: value === undefined ? null : value });
  } catch (error) {
    answer({ id, error: { name: error.name, message: String(error.message) } });
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => void serve(JSON.parse(line)));
lines.on("close", () => process.exit(0));
