# What driver.py, journal.py and workloads.py are for Python, for a system in Ruby: the same verbs,
# the same file format, the same workloads. The journal is mapped into memory, as Python's is.
require "json"

Warning[:experimental] = false # IO::Buffer
FOLDER = ENV.fetch("BENCH_FOLDER", ".")
PRODUCERS = 100
THREADS = 8
BULK_JOBS = 1000
SLEEP_S = 0.05
ENTRY_BYTES = 24

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond) # as Python's monotonic_ns

def cpu_s = Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID)

# The entries of this process. Only one thread runs at a time, and none gives way in `note`.
class Journal
  def initialize
    path = "#{FOLDER}/#{Process.pid}.journal"
    File.write(path, "")
    File.truncate(path, ENV.fetch("BENCH_MOST").to_i * ENTRY_BYTES)
    @entries = File.open(path, "r+") { |file| IO::Buffer.map(file) }
    @set = @entries.respond_to?(:set_value) ? :set_value : :set # renamed in Ruby 3.2
    @offset = -ENTRY_BYTES
  end

  def note(number, began)
    at = (@offset += ENTRY_BYTES)
    ended = now
    @entries.send(@set, :s64, at, number)
    @entries.send(@set, :s64, at + 8, began || ended)
    @entries.send(@set, :s64, at + 16, ended)
  end
end

def job(number)
  if ENV["BENCH_WORKLOAD"] == "sleep"
    began = now
    sleep SLEEP_S
  end
  $journal.note(number, began)
end

def gate
  $journal = Journal.new
  File.write("#{FOLDER}/#{Process.pid}.ready", "")
  sleep 0.001 until File.exist?("#{FOLDER}/go")
end

# Enqueue from so many threads at a time, each waiting for its call.
def enqueue_from(threads, system, jobs)
  numbers = Thread::Queue.new((0...jobs).to_a).close
  produce = proc { while (n = numbers.pop) do system[:one].(n) end }
  Array.new(threads) { Thread.new(&produce) }.each(&:join)
end

WAYS = {
  "one" => ->(system, jobs) { jobs.times(&system[:one]) },
  "gathered" => ->(system, jobs) { enqueue_from(PRODUCERS, system, jobs) },
  "threads" => ->(system, jobs) { enqueue_from(THREADS, system, jobs) },
  "bulk" => ->(system, jobs) { (0...jobs).each_slice(BULK_JOBS, &system[:bulk]) },
}
WAYS["blocking"] = WAYS["one"]

def enqueue(system, given)
  begin_ns, cpu = now, cpu_s
  WAYS.fetch(given["how"]).(system, given["jobs"].to_i)
  { seconds: (now - begin_ns) / 1e9, cpu_s: cpu_s - cpu }
end

def pickup(system, given)
  system[:one].(0) # opens connections; its time does not count
  cpu, sent = cpu_s, [0]
  (1...given["jobs"].to_i).each do |n|
    sleep given["gap-ms"].to_f / 1000
    sent << now
    system[:one].(n)
  end
  { times: sent, cpu_s: cpu_s - cpu }
end

# `system`: one(n), bulk(numbers), work(concurrency) and versions().
def main(system)
  if defined?(RubyVM::YJIT) && ENV["RUBYOPT"] != "--yjit" # for this process, and what it starts
    exec({ "RUBYOPT" => "--yjit" }, "ruby", $PROGRAM_NAME, *ARGV)
  end
  verb, *words = ARGV
  given = words.each_slice(2).to_h { |name, value| [name.delete_prefix("--"), value] }
  case verb
  when "versions"
    puts JSON.generate(system[:versions].())
  when "worker"
    (given["processes"].to_i - 1).times { break unless fork }
    system[:work].(given["concurrency"].to_i)
  else
    told = { "enqueue" => method(:enqueue), "pickup" => method(:pickup) }.fetch(verb)
    File.write("#{FOLDER}/told.json", JSON.generate(told.(system, given)))
  end
end
