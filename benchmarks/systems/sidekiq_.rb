# Sidekiq, by its command.
require "sidekiq"
require_relative "../harness/driver"

GUARANTEE = "at most once: basic fetch takes a job off the list, so a killed process loses what it runs"
SETTINGS = "no-ops: 10 threads (default); else threads = concurrency; log level WARN, YJIT if Ruby has it"
DEPTH = "LLEN queue:default"
BULK = true
NEEDS = "Ruby 3.1 or newer with Sidekiq: the package ruby-sidekiq of Debian"

class Job
  include Sidekiq::Job

  def perform(n) = job(n)
end

Sidekiq.logger.level = Logger::WARN
Redis.silence_deprecations = true # a line of redis-rb 4.8 for each job
Sidekiq.configure_server do |config|
  config.redis = { url: ENV["BENCH_REDIS_URL"] }
  config.on(:startup) { gate }
end
# a connection for each thread that enqueues
Sidekiq.configure_client { |config| config.redis = { url: ENV["BENCH_REDIS_URL"], size: PRODUCERS } }

if $PROGRAM_NAME == __FILE__
  main(
    one: ->(n) { Job.perform_async(n) },
    bulk: ->(numbers) { Job.perform_bulk(numbers.map { |n| [n] }) },
    work: lambda do |concurrency|
      threads = ENV["BENCH_WORKLOAD"] == "noop" ? 10 : concurrency
      exec "sidekiq", "-r", __FILE__, "-c", threads.to_s, "-e", "production"
    end,
    versions: -> { { ruby: RUBY_VERSION, sidekiq: Sidekiq::VERSION, redis: Redis::VERSION } },
  )
end
