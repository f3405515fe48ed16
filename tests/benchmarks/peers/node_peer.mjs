// The part of the npm package `bullmq` in the comparison, as roles.py says: one argument, the order
// as JSON; run where the package is installed.
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { FlowProducer, Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const order = { concurrency: 1, marks: 0, options: {}, ...JSON.parse(process.argv[2]) };
const payload = { to: 'ada@example.org', text: 'x'.repeat(64) };
const connect = () => new (Redis.default ?? Redis)(order.url, { maxRetriesPerRequest: null });
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const monotonic = () => Number(process.hrtime.bigint());
const producer = () => new Queue('bench', { connection: connect() });

function meter() {
  const wall = performance.now();
  const before = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(before);
    return { seconds: (performance.now() - wall) / 1000, cpu: (user + system) / 1e6 };
  };
}

async function worker(name, handler) {
  const { concurrency } = order;
  const made = new Worker(name, handler, { connection: connect(), concurrency, autorun: false });
  await made.waitUntilReady();
  return made;
}

async function addMany() {
  const queue = producer();
  await queue.waitUntilReady();
  const stop = meter();
  for (let first = 0; first < order.jobs; first += 500) {
    const size = Math.min(500, order.jobs - first);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: 'send', data: payload })));
  }
  return stop();
}

async function addOne() {
  const queue = producer();
  await queue.add('send', payload);
  const stop = meter();
  for (let left = order.jobs - 1; left > 0; left--) await queue.add('send', payload);
  return stop();
}

async function addCallers() {
  const queue = producer();
  const each = Math.floor(order.jobs / 100);
  const caller = async (count) => { for (; count > 0; count--) await queue.add('send', payload); };
  await caller(1);
  const stop = meter();
  await Promise.all(Array.from({ length: 100 }, () => caller(each)));
  return { ...stop(), jobs: 100 * each };
}

async function drain() {
  let left = order.jobs;
  let done;
  let stop;
  const ended = new Promise((resolve) => { done = resolve; });
  const made = await worker('bench', async () => {
    stop ??= meter();
    left -= 1;
    if (left === 0) done(stop());
    else if (order.marks && left % order.marks === 0) say({ at: order.jobs - left });
  });
  made.run();
  const result = await ended;
  await made.close();
  return result;
}

async function serve() {
  const taken = [];
  let done;
  const ended = new Promise((resolve) => { done = resolve; });
  const made = await worker('bench', async (job) => {
    taken.push(monotonic() - job.data.sent);
    if (taken.length === order.jobs) done();
  });
  made.run();
  await sleep(300);
  say({ at: 'ready' });
  await ended;
  return { ms: taken.slice(10).map((ns) => ns / 1e6) };
}

async function send() {
  const queue = producer();
  for (let left = order.jobs; left > 0; left--) {
    await sleep(5 + 10 * Math.random());
    await queue.add('send', { ...payload, sent: monotonic() });
  }
  return {};
}

async function hold() {
  let started = 0;
  let release;
  const released = new Promise((resolve) => { release = resolve; });
  const made = await worker('bench', async () => {
    started += 1;
    if (started === order.jobs) {
      say({ at: 'full' });
      await sleep(500);
      release();
    }
    await released;
  });
  made.run();
  await released;
  return {};
}

async function addFlows() {
  const flows = new FlowProducer({ connection: connect() });
  await flows.waitUntilReady();
  const children = Array.from({ length: order.options.children }, () => (
    { name: 'send', queueName: 'children', data: payload }));
  const stop = meter();
  for (let first = 0; first < order.jobs; first += 100) {
    const size = Math.min(100, order.jobs - first);
    await flows.addBulk(Array.from({ length: size }, () => (
      { name: 'bind', queueName: 'parents', data: payload, children })));
  }
  return stop();
}

async function drainFlows() {
  let left = order.jobs;
  let done;
  let stop;
  const ended = new Promise((resolve) => { done = resolve; });
  const children = await worker('children', async () => { stop ??= meter(); });
  const parents = await worker('parents', async () => {
    left -= 1;
    if (left === 0) done(stop());
  });
  children.run();
  parents.run();
  return ended;
}

const roles = {
  add_many: addMany, add_one: addOne, add_callers: addCallers, drain, serve, send, hold,
  add_flows: addFlows, drain_flows: drainFlows,
};
say(await roles[order.role]());
process.exit(0);
