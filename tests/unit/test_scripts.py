"""Every Lua file agrees with its entry in scripts.py and with the table of keys."""

import copy
import hashlib

import pytest
from redis.exceptions import MovedError

from qcore.broker.redis import scripts
from qcore.broker.redis.keys import (
    NAMESPACE_KEYS,
    QUEUE_KEYS,
    namespace_keys,
    queue_keys,
    queues_key,
)
from qcore.broker.redis.scripts import SCRIPTS, Script
from tests.support.lua import FOLDER, expanded, header_of, included, mistakes, named_slots

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)


def source_of(script: Script) -> str:
    return (FOLDER / f"{script.name}.lua").read_text()


def reads_only(source: str) -> bool:
    return "Reads only." in header_of(source).summary


def mistakes_in(script: Script, source: str) -> list[str]:
    return mistakes(
        source,
        script.keys,
        guarded=script.name not in ("enqueue", "admission") and not reads_only(source),
        reads_only=reads_only(source),
    )


def test_scripts_and_files_are_one_to_one():
    files = sorted(path.stem for path in FOLDER.glob("*.lua"))
    assert sorted(script.name for script in SCRIPTS) == files
    entries = {name.lower() for name, value in vars(scripts).items() if isinstance(value, Script)}
    assert entries == set(files)


def test_every_library_file_is_included_somewhere():
    used = {name for script in SCRIPTS for name in included(source_of(script))}
    assert used == {path.stem for path in (FOLDER / "lib").glob("*.lua")}


@every_script
def test_script_agrees_with_its_entry(script):
    assert mistakes_in(script, source_of(script)) == []


@every_script
def test_script_header_begins_with_its_name(script):
    summary = header_of(source_of(script)).summary
    assert summary.startswith(f"-- {script.name}: ")
    assert summary.endswith(".")


@every_script
def test_script_is_loaded_with_its_includes_and_named_by_its_digest(script):
    assert script.source == expanded(source_of(script))
    assert "@include" not in script.source
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest().encode()


def test_every_key_is_used_by_a_script():
    assert {key for script in SCRIPTS for key in script.keys} == set(QUEUE_KEYS) | set(
        NAMESPACE_KEYS
    )


SETTLE_BAD = [
    # (what is changed, what the reader says)
    ("--       dead       zset", "--       dead       hash", "keys.py says"),
    ("zset  job id -> time of death, unix ms", "zset  job id -> something", "keys.py says"),
    ("--       crashes    hash", "--       crash      hash", "header has KEYS"),
    ("--       retries    int", "--       retry      int", "variables for ARGV"),
    ("--       releases   int\n", "", "variables for ARGV"),
    ("k.active, k.running, k.jobs", "k.active, k.jobs, k.running", "variables for KEYS"),
    ("unpack(KEYS, 8, 14)", "unpack(KEYS, 7, 13)", "variables for KEYS"),
    ("ARGV[3], ARGV[4],\n  ARGV[5], 6", "ARGV[4], ARGV[3],\n  ARGV[5], 6", "variables for ARGV"),
    ("ARGV[5], 6", "ARGV[5], 7", "variables for ARGV"),
    ("-- reply the tokens", "-- answer the tokens", "no reply"),
    (
        "unique_keys finish keep settling",
        "unique_keys keep settling",
        "uses finish",
    ),
    (
        "unique_keys finish keep settling",
        "unique_keys finish keep settling give_back",
        "does not use",
    ),
    ("@include clock", "@include watch clock", "watch, which is not there"),
    ("redis.call('ZREM', k.active, '')\n", "", "removal of nothing"),
    ("redis.call('ZREM', k.active, '')", "redis.call('ZREM', k.dead, '')", "removal of nothing"),
    (
        "redis.call('ZREM', k.active, '')",
        "redis.call('HSET', k.done, 1, 1)\nredis.call('ZREM', k.active, '')",
        "HSET before",
    ),
    (
        "redis.call('ZREM', k.active, '')",
        "if now then\n  redis.call('ZREM', k.active, '')\nend",
        "removal of nothing",
    ),
    ("redis.call('HDEL', k.running", "redis.call('HDEL', KEYS[1] .. 'running'", "no declared key"),
    ("redis.call('HDEL', k.running", "redis.call('HDEL', 'running'", "no declared key"),
    ("redis.call('HDEL', k.running", "redis.call('HDEL', k.meta", "no declared key"),
    ("redis.call('HDEL', k.running", "redis.call('KEYS', k.running", "calls KEYS"),
    ("redis.call('HDEL', k.running", "redis.call('SCAN', k.running", "calls SCAN"),
    ("redis.call('HDEL', k.running", "redis.call('FLUSHALL', k.running", "calls FLUSHALL"),
    ("return lost\n", "return lost\n" + "\n" * 80, "lines"),
]


@pytest.mark.parametrize(("old", "new", "complaint"), SETTLE_BAD)
def test_reader_finds_what_is_wrong_in_a_changed_settle(old, new, complaint):
    """The comparison above can fail: each of these changes is seen."""
    source = source_of(scripts.SETTLE)
    assert mistakes_in(scripts.SETTLE, source) == []
    assert old in source
    found = mistakes_in(scripts.SETTLE, source.replace(old, new, 1))
    assert any(complaint in mistake for mistake in found), found


def test_reader_finds_a_write_in_a_script_that_reads_only():
    source = source_of(scripts.DEPTH) + "redis.call('HDEL', jobs, first)\n"
    assert mistakes_in(scripts.DEPTH, source) == ["HDEL in a script that reads only"]


def test_reader_finds_a_write_in_an_included_file():
    source = source_of(scripts.DEPTH).replace("@include clock", "@include clock finish")
    assert "HDEL in a script that reads only" in mistakes_in(scripts.DEPTH, source)


def test_reader_sees_the_slots_of_every_form():
    assert named_slots("local a, b = unpack(KEYS, 1, 2)", "KEYS") == {1: "a", 2: "b"}
    assert named_slots("k.a, k.b = unpack(KEYS, 1, 2)", "KEYS") == {1: "a", 2: "b"}
    assert named_slots("local a = KEYS[1]", "KEYS") == {1: "a"}
    text = "local a, b, items = ARGV[1],\n  ARGV[2], 3"
    assert named_slots(text, "ARGV") == {1: "a", 2: "b", 3: "items"}


# -- calls -----------------------------------------------------------------------------------------


def test_call_sends_digest_keys_in_order_and_arguments():
    keys = queue_keys("shop", "orders")
    call = scripts.PROMOTE.call(keys, b"", 200)
    names = [f"{{shop:orders}}:{name}".encode() for name in scripts.PROMOTE.keys]
    assert call.by_digest() == (b"EVALSHA", scripts.PROMOTE.sha, 7, *names, b"", 200)
    assert call.by_source() == (b"EVAL", scripts.PROMOTE.source, 7, *names, b"", 200)


def test_call_on_several_queues_repeats_the_keys_of_each():
    both = [queue_keys("shop", "high"), queue_keys("shop", "low")]
    call = scripts.CLAIM.call(both, b"", 1)
    width = len(scripts.CLAIM.keys)
    assert len(call.keys) == 2 * width
    assert call.keys[width:] == both[1].pick(scripts.CLAIM.keys)


def test_keys_of_a_queue_share_one_hash_tag():
    names = queue_keys("shop", "orders").names
    assert set(names) == set(QUEUE_KEYS)
    assert {name: f"{{shop:orders}}:{name}".encode() for name in names} == names


def test_keys_of_a_namespace_share_one_hash_tag():
    assert namespace_keys("shop").names == {
        "fleet": b"{shop}:fleet",
        "control": b"{shop}:control",
    }


def test_keys_of_queues_and_namespaces_never_meet():
    """A name holds no colon, so that no two pairs give the same tag."""
    tags = {
        queue_keys(namespace, queue).names["ready"]
        for namespace in ("a", "a.b", "a-b")
        for queue in ("b", "b.c", "x")
    }
    assert len(tags) == 9
    assert queues_key("shop") == b"shop:queues"


def test_error_of_a_slot_that_moved_can_be_copied_for_each_caller():
    moved = copy.copy(scripts.error_of(MovedError("1234 ::1:7001")))
    assert isinstance(moved, scripts.Moved)
    assert (moved.slot, moved.host, moved.port) == (1234, "::1", 7001)
    assert "MOVED 1234" in str(moved)
