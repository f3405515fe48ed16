// BullMQ for Node: <url> <queue> <keep>; one job is completed by a worker that keeps that many.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const [url, name, keep] = process.argv.slice(2);
const connect = () => new (Redis.default ?? Redis)(url, { maxRetriesPerRequest: null });
const queue = new Queue(name, { connection: connect() });
await queue.add('do', {});
const worker = new Worker(name, async () => null, {
  connection: connect(), autorun: false, removeOnComplete: { count: Number(keep) },
});
await worker.waitUntilReady();
await new Promise((resolve) => { worker.on('completed', resolve); worker.run(); });
process.exit(0);
