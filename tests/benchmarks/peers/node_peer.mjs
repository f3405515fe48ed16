// The same for the npm package `bullmq`: <url> add|drain <jobs> <concurrency>; run where it is installed.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const [url, what, jobs, concurrency] = process.argv.slice(2);
const count = Number(jobs);
const payload = { to: 'ada@example.org', text: 'x'.repeat(64) };
const connect = () => new (Redis.default ?? Redis)(url, { maxRetriesPerRequest: null });

async function add() {
  const queue = new Queue('bench', { connection: connect() });
  await queue.waitUntilReady();
  const started = performance.now();
  for (let first = 0; first < count; first += 500) {
    const size = Math.min(500, count - first);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: 'send', data: payload })));
  }
  return performance.now() - started;
}

async function drain() {
  let left = count;
  const options = { connection: connect(), concurrency: Number(concurrency), autorun: false };
  const worker = new Worker('bench', async () => null, options);
  await worker.waitUntilReady();
  const started = performance.now();
  await new Promise((resolve) => {
    worker.on('completed', () => { if (--left === 0) resolve(); });
    worker.run();
  });
  return performance.now() - started;
}

const ms = await (what === 'add' ? add() : drain());
console.log(JSON.stringify(ms / 1000));
process.exit(0);
