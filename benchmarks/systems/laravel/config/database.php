<?php

return [
    "redis" => [
        "client" => "phpredis",
        "default" => ["url" => getenv("BENCH_REDIS_URL")],
    ],
];
