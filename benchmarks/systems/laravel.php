<?php
// Laravel's queue worker, by its command. The application lies in the environment that the harness
// has made of `laravel/`; the framework is the one that PHP finds, as Debian packs it.
require_once "Illuminate/autoload.php";
require_once __DIR__ . "/../harness/driver.php";

use Illuminate\Contracts\Console\Kernel;
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Foundation\Application;
use Illuminate\Foundation\Bus\Dispatchable;
use Illuminate\Queue\Events\Looping;
use Illuminate\Support\Facades\Event;
use Illuminate\Support\Facades\Queue;

const GUARANTEE = "at least once: a killed worker's job runs again after retry_after, 90 s, with --tries=3; the default, 1, fails it";
const SETTINGS = "phpredis, block_for=5, --tries=3, opcache with its JIT; one job at a time in each process, whatever the concurrency";
const DEPTH = "LLEN queues:default";
const BULK = true;
const CONCURRENT = false;
const NEEDS = "PHP 8.1 with the packages php-cli, php-redis and php-laravel-framework of Debian";

final class Job implements ShouldQueue
{
    use Dispatchable;

    public function __construct(public int $n)
    {
    }

    public function handle(): void
    {
        job($this->n);
    }
}

function application(): Application
{
    $app = new Application(getenv("BENCH_ENVIRONMENT"));
    $app->singleton(Kernel::class, Illuminate\Foundation\Console\Kernel::class);
    $app->singleton(ExceptionHandler::class, Illuminate\Foundation\Exceptions\Handler::class);
    $app->booted(fn () => Event::listen(Looping::class, function () {
        static $passed = false;
        $passed = $passed || gate() || true;
    }));
    return $app;
}

if (realpath($_SERVER["SCRIPT_FILENAME"]) === __FILE__) {
    main([
        "opened" => fn () => application()->make(Kernel::class)->bootstrap(),
        "one" => fn (int $n) => Job::dispatch($n),
        "bulk" => fn (array $numbers) => Queue::bulk(array_map(fn ($n) => new Job($n), $numbers)),
        "work" => fn () => pcntl_exec(PHP_BINARY, [
            getenv("BENCH_ENVIRONMENT") . "/artisan", "queue:work", "redis", "--tries=3", "--quiet"]),
        "versions" => fn () => ["php" => PHP_VERSION, "laravel" => Application::VERSION, "phpredis" => phpversion("redis")],
    ]);
}
