// What BullMQ for Node makes of jobs that come more often than `maxStartedAttempts` allows.
// Usage: node starts.mjs URL MOST, packages from $TORIL_NODE_HOME/node_modules. Prints one JSON line.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.TORIL_NODE_HOME, "package.json"));
const { Queue, Worker, DelayedError } = require("bullmq");

const [address, most] = process.argv.slice(2);
const url = new URL(address);
const connection = {
  host: url.hostname,
  port: Number(url.port),
  db: Number(url.pathname.slice(1) || 0),
  maxRetriesPerRequest: null,
};

const runs = {};
const queue = new Queue("starts", { connection });
const worker = new Worker(
  "starts",
  async (job, token) => {
    runs[job.id] = (runs[job.id] ?? 0) + 1;
    if (job.name === "fails") throw new Error("no");
    await job.moveToDelayed(Date.now(), token);
    throw new DelayedError();
  },
  { connection, maxStartedAttempts: Number(most), name: "counter" },
);
const ended = new Promise((resolve) => {
  let open = 2;
  worker.on("failed", async (job) => {
    if (job.finishedOn && --open === 0) resolve();
  });
});
await queue.add("fails", 1, { jobId: "fails", attempts: 5 });
await queue.add("again", 1, { jobId: "again", attempts: 5 });
await ended;
const told = {};
for (const id of ["fails", "again"]) {
  const job = await queue.getJob(id);
  told[id] = {
    runs: runs[id],
    reason: job.failedReason,
    made: job.attemptsMade,
    started: job.attemptsStarted,
    by: job.processedBy,
  };
}
console.log(JSON.stringify(told));
await worker.close();
await queue.close();
