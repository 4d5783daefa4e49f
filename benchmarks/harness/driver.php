<?php
// What driver.py, journal.py and workloads.py are for Python, for a system in PHP: the same verbs,
// the same file format, the same workloads. A process runs one job at a time: no way to enqueue
// from several tasks. It has no shared memory, so a job costs a write.

const BULK_JOBS = 1000;
const SLEEP_US = 50_000;

function folder(string $name): string
{
    return getenv("BENCH_FOLDER") . "/$name";
}

function note(int $number, int $began = 0): void
{
    static $file = null;
    if ($file === null) {
        $file = fopen(folder(getmypid() . ".journal"), "a");
        stream_set_write_buffer($file, 0);
    }
    $ended = hrtime(true); // CLOCK_MONOTONIC, as Python's monotonic_ns
    fwrite($file, pack("q3", $number, $began ?: $ended, $ended));
}

function job(int $n): void
{
    $began = 0;
    if (getenv("BENCH_WORKLOAD") === "sleep") {
        $began = hrtime(true);
        usleep(SLEEP_US);
    }
    note($n, $began);
}

function gate(): void
{
    touch(folder(getmypid() . ".ready"));
    while (!is_file(folder("go"))) {
        usleep(1000);
        clearstatcache();
    }
}

function cpu_s(): float
{
    $used = getrusage();
    return $used["ru_utime.tv_sec"] + $used["ru_stime.tv_sec"]
        + ($used["ru_utime.tv_usec"] + $used["ru_stime.tv_usec"]) / 1e6;
}

function enqueue(array $system, array $given): array
{
    [$begin, $cpu, $jobs] = [hrtime(true), cpu_s(), (int) $given["jobs"]];
    if ($given["how"] === "bulk") {
        for ($n = 0; $n < $jobs; $n += BULK_JOBS) {
            $system["bulk"](range($n, min($n + BULK_JOBS, $jobs) - 1));
        }
    } else {
        for ($n = 0; $n < $jobs; $n++) {
            $system["one"]($n);
        }
    }
    return ["seconds" => (hrtime(true) - $begin) / 1e9, "cpu_s" => cpu_s() - $cpu];
}

function pickup(array $system, array $given): array
{
    $system["one"](0); // opens connections; its time does not count
    [$cpu, $sent] = [cpu_s(), [0]];
    for ($n = 1; $n < (int) $given["jobs"]; $n++) {
        usleep((int) ($given["gap-ms"] * 1000));
        $sent[] = hrtime(true);
        $system["one"]($n);
    }
    return ["times" => $sent, "cpu_s" => cpu_s() - $cpu];
}

// $system: opened(), one(n), bulk(numbers), work() and versions().
function main(array $system): void
{
    [, $verb] = $words = $_SERVER["argv"];
    $given = [];
    for ($i = 2; $i < count($words); $i += 2) {
        $given[ltrim($words[$i], "-")] = $words[$i + 1];
    }
    if ($verb === "versions") {
        echo json_encode($system["versions"]());
    } elseif ($verb === "worker") {
        for ($i = 1; $i < (int) $given["processes"] && pcntl_fork() !== 0; $i++);
        $system["work"]();
    } else {
        $system["opened"]();
        $told = ["enqueue" => enqueue(...), "pickup" => pickup(...)][$verb]($system, $given);
        file_put_contents(folder("told.json"), json_encode($told));
    }
}
