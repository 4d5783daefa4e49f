// BullMQ on Node. Its packages lie in the environment that the harness has made.
import { createRequire } from "node:module";
import { job, main, url } from "../harness/driver.mjs";

const GUARANTEE = "at least once: a lock of 30 s on every job, renewed; a stalled job runs again once";
const SETTINGS = "removeOnComplete and removeOnFail, else defaults";
const DEPTH = "LLEN bull:bench:wait";
const BULK = true;
const NEEDS = "Node 20 or newer with npm";

const { Queue, Worker } = createRequire(`${process.env.BENCH_ENVIRONMENT}/`)("bullmq");
const connection = { host: url.hostname, port: Number(url.port) };
const options = { removeOnComplete: true, removeOnFail: true };

let queue;
const opened = () => (queue ??= new Queue("bench", { connection }));

await main({
  one: (n) => opened().add("job", { n }, options),
  keyed: (n) => opened().add("job", { n }, { ...options, deduplication: { id: String(n) } }),
  bulk: (numbers) => opened().addBulk(numbers.map((n) => ({ name: "job", data: { n }, opts: options }))),
  work: (concurrency) => {
    const worker = new Worker("bench", ({ data }) => job(data.n), { connection, concurrency, autorun: false });
    worker.on("error", (error) => console.error(error));
    return worker.run();
  },
  close: () => queue.close(),
});
