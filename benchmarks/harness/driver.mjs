// What driver.py, journal.py and workloads.py are for Python, for a system on Node: the same verbs,
// the same file format, the same workloads. It has no shared memory, so a job costs a write (2 us).
import { fork } from "node:child_process";
import fs from "node:fs";
import { parseArgs } from "node:util";

const folder = process.env.BENCH_FOLDER;
export const url = new URL(process.env.BENCH_REDIS_URL ?? "redis://127.0.0.1:6379/0");
const PRODUCERS = 100, BULK_JOBS = 1000, SLEEP_MS = 50;
const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC, as Python's monotonic_ns
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

let file, entry;
function note(number, began) {
  if (file === undefined) {
    file = fs.openSync(`${folder}/${process.pid}.journal`, "a");
    entry = Buffer.alloc(24);
  }
  const ended = now();
  entry.writeBigInt64LE(BigInt(number), 0);
  entry.writeBigInt64LE(began ?? ended, 8);
  entry.writeBigInt64LE(ended, 16);
  fs.writeSync(file, entry);
}

export const job = {
  noop: async (n) => note(n),
  sleep: async (n) => {
    const began = now();
    await wait(SLEEP_MS);
    note(n, began);
  },
}[process.env.BENCH_WORKLOAD];

async function gate() {
  fs.writeFileSync(`${folder}/${process.pid}.ready`, "");
  while (!fs.existsSync(`${folder}/go`)) await wait(1);
}

const ways = {
  async one(system, jobs) {
    for (let n = 0; n < jobs; n++) await system.one(n);
  },
  async gathered(system, jobs) {
    let next = 0;
    const produce = async () => {
      while (next < jobs) await system.one(next++);
    };
    await Promise.all(Array.from({ length: PRODUCERS }, produce));
  },
  keyed: (system, jobs) => ways.one({ one: system.keyed }, jobs),
  "keyed gathered": (system, jobs) => ways.gathered({ one: system.keyed }, jobs),
  async bulk(system, jobs) {
    for (let n = 0; n < jobs; n += BULK_JOBS) {
      const size = Math.min(BULK_JOBS, jobs - n);
      await system.bulk(Array.from({ length: size }, (_, i) => n + i));
    }
  },
};

const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

const verbs = {
  async enqueue(system, given) {
    const begin = now(), cpu = cpuSeconds();
    await ways[given.how](system, Number(given.jobs));
    return { seconds: Number(now() - begin) / 1e9, cpu_s: cpuSeconds() - cpu };
  },
  async pickup(system, given) {
    await system.one(0);
    const sent = [0], cpu = cpuSeconds();
    for (let n = 1; n < Number(given.jobs); n++) {
      await wait(Number(given["gap-ms"]));
      sent.push(Number(now()));
      await system.one(n);
    }
    return { times: sent, cpu_s: cpuSeconds() - cpu };
  },
  async paced(system, given) {
    await system.one(0);
    const begin = now(), running = [], due = [0], cpu = cpuSeconds();
    for (let n = 1; n < Number(given.jobs); n++) {
      const intended = begin + BigInt(Math.trunc((n / Number(given.rate)) * 1e9));
      const early = Number(intended - now()) / 1e6;
      if (early > 0) await wait(early);
      due.push(Number(intended));
      running.push(system.one(n));
    }
    await Promise.all(running);
    return { times: due, cpu_s: cpuSeconds() - cpu };
  },
};

// `system`: one(n), bulk(numbers), work(concurrency) and close().
export async function main(system) {
  const text = { type: "string" };
  const options = { how: text, jobs: text, concurrency: text, processes: text, rate: text };
  options["gap-ms"] = text;
  const { positionals, values } = parseArgs({ allowPositionals: true, options });
  if (positionals[0] === "worker") {
    for (let i = 1; i < Number(values.processes); i++) {
      fork(process.argv[1], ["worker", "--concurrency", values.concurrency, "--processes", "1"]);
    }
    await gate();
    await system.work(Number(values.concurrency));
  } else {
    const told = await verbs[positionals[0]](system, values);
    fs.writeFileSync(`${folder}/told.json`, JSON.stringify(told));
    await system.close();
  }
}
