// BullMQ for Node with its telemetry; prints the finished spans as one JSON line.
// Usage: node telemetry.mjs URL produce        adds jobs within a span called "root"
//        node telemetry.mjs URL work QUEUE N   runs jobs until N have completed
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.TORIL_NODE_HOME, "package.json"));
const { Queue, Worker, FlowProducer } = require("bullmq");
const { BullMQOtel } = require("bullmq-otel");
const api = require("@opentelemetry/api");
const { W3CTraceContextPropagator } = require("@opentelemetry/core");
const { AsyncLocalStorageContextManager } = require("@opentelemetry/context-async-hooks");
const sdk = require("@opentelemetry/sdk-trace-base");

const [address, mode, name, count] = process.argv.slice(2);
const url = new URL(address);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };

const exporter = new sdk.InMemorySpanExporter();
const spanProcessors = [new sdk.SimpleSpanProcessor(exporter)];
api.trace.setGlobalTracerProvider(new sdk.BasicTracerProvider({ spanProcessors }));
api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
api.propagation.setGlobalPropagator(new W3CTraceContextPropagator());

const telemetry = new BullMQOtel("bullmq");
const tracer = api.trace.getTracer("program");
const within = (title, work) =>
  tracer.startActiveSpan(title, async (span) => {
    await work();
    span.end();
  });

async function produce() {
  const queue = new Queue("mail", { connection, telemetry });
  const flows = new FlowProducer({ connection, telemetry });
  await within("root", async () => {
    await queue.add("one", {}, { jobId: "one", attempts: 2 });
    await queue.addBulk([
      { name: "two", data: {}, opts: { jobId: "two" } },
      { name: "three", data: {}, opts: { jobId: "three" } },
    ]);
    const child = { name: "child", queueName: "mail", data: {}, opts: { jobId: "child" } };
    const opts = { jobId: "parent" };
    await flows.add({ name: "parent", queueName: "mail", data: {}, opts, children: [child] });
    await queue.add("apart", {}, { jobId: "apart", telemetry: { omitContext: true } });
  });
  await flows.close();
  await queue.close();
}

async function work() {
  let left = Number(count);
  await new Promise((resolve) => {
    const worker = new Worker(
      name,
      async (job) => {
        await within(`inside ${job.id}`, async () => {});
        if (job.name === "fails-once" && job.attemptsMade === 0) throw new Error("once");
      },
      { connection, telemetry, name: "node" },
    );
    worker.on("error", (error) => console.error(error));
    worker.on("completed", async () => {
      if (--left > 0) return;
      await worker.close();
      resolve();
    });
  });
}

await (mode === "produce" ? produce() : work());
const spans = exporter.getFinishedSpans().map((span) => ({
  name: span.name,
  trace: span.spanContext().traceId,
  id: span.spanContext().spanId,
  parent: span.parentSpanContext ? span.parentSpanContext.spanId : null,
  attributes: span.attributes,
}));
console.log(JSON.stringify(spans));
process.exit(0);
