"""URLs as they are shown and refused, delays between tries, what error replies mean."""

import pytest
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as LostConnection

from qcore.broker import backoff
from qcore.broker.backoff import Backoff
from qcore.broker.redis.endpoint import Endpoint
from qcore.broker.redis.pipeline import failure_of
from qcore.broker.redis.scripts import error_of, unknown_script
from qcore.broker.redis.urls import Hosts, plain_url, shown_url
from qcore.errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigError, QueueFull
from qcore.settings import BrokerConfig


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user@host/0", "redis://***@host/0"),
        ("redis://user:hunter2@host:6379/0", "redis://***@host:6379/0"),
        (
            "redis://:hunter2@host:6379/0?socket_keepalive=yes",
            "redis://***@host:6379/0?socket_keepalive=yes",
        ),
        ("rediss://:p%40hunter2@host", "rediss://***@host"),
        ("unix://user:hunter2@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("embedded://.qcore", "embedded://.qcore"),
        ("redis+sentinel://h1:1,h2:2/svc/0", "redis+sentinel://h1:1,h2:2/svc/0"),
        ("redis+sentinel://u:hunter2@h1:1,h2:2/svc/0", "redis+sentinel://***@h1:1,h2:2/svc/0"),
        ("rediss+cluster://:hunter2@h1:1,h2:2", "rediss+cluster://***@h1:1,h2:2"),
        ("embedded:///var/lib/x", "embedded:///var/lib/x"),
    ],
)
def test_shown_url_hides_the_password_and_nothing_else(url, shown):
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:6379/0",
        "redis://:a@b:hunter2@host/0",
        "redis://:pa/hunter2@host:6379/0",
        "redis://:pa#hunter2@host:6379/0",
        "redis://:pa?hunter2@host:6379/0",
        "redis://host:6379/0?password=hunter2",
        "redis://[hunter2",
        "redis+cluster://u:hunter2@h1:7000,u:hunter2@h2:7000",
        "redis+sentinel://u:hunter2@h1,u:a@h2/svc?password=hunter2",
        "redis://hunter2@host",
        "redis://:hunter2",
        "redis://user:hunter2",
        "redis://:12/hunter2@host",
        "redis://u:12?hunter2=1@host",
        "redis://u:12#hunter2@host",
        "redis://host?hunter2",
        "redis://host/hunter2",
        "redis://host?p%61ssword=hunter2",
        "redis://host?ssl_p%61ssword=hunter2",
        "redis://host?db=hunter2",
        "rediss://host?ssl_password=hunter2",
        "unix://:a/hunter2@/run/redis.sock",
        "unix:///run/redis.sock?pass%77ord=hunter2",
        "user:hunter2@host:6379",
        "hunter2",
        "redis://u:hun ter2@host".replace("hun ter2", "hunter2 "),
        "redis://[u:hunter2@host",
        "redis://:hunter2[@host:x/0",
    ],
)
def test_shown_url_never_shows_a_password(url):
    """Also of a URL in which the user forgot to quote the password, or gave it as an option."""
    assert "hunter2" not in shown_url(url)
    said = ""
    try:
        said = Endpoint(BrokerConfig(url=url)).shown
    except ConfigError as e:
        said = f"{e} {e.__cause__} {'' if e.__suppress_context__ else e.__context__}"
    assert "hunter2" not in said
    assert "hunter2" not in repr(BrokerConfig(url=url))


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:port/0", "redis://:hunter2@host:99999999/0", "http://:hunter2@h"]
)
def test_endpoint_refuses_a_url_without_showing_its_password(url):
    with pytest.raises(ConfigError, match="is no Redis URL") as e:
        Endpoint(BrokerConfig(url=url))
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize("url", ["", "host:6379", "http://host", "redis:/host", "://"])
def test_endpoint_refuses_what_is_no_url_and_says_what_is(url):
    with pytest.raises(ConfigError, match="redis://host:6379/0"):
        Endpoint(BrokerConfig(url=url))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h1:26379", "/SERVICE or /SERVICE/DB"),
        ("redis+sentinel://h1:26379/", "/SERVICE or /SERVICE/DB"),
        ("redis+sentinel://h1/svc/x", "/SERVICE or /SERVICE/DB"),
        ("redis+sentinel://h1/svc/0/1", "/SERVICE or /SERVICE/DB"),
        ("redis+sentinel:///svc", "its host is no host:port"),
        ("redis+sentinel://h1,,h2/svc", "its host is no host:port"),
        ("redis+cluster://h1:port", "its host is no host:port"),
        ("redis+cluster://h1:99999", "its port is none from 1 to 65535"),
        ("redis://h/qcore", "the number of a database, as /0"),
        ("redis://h/abc", "keys are kept apart by --namespace"),
        ("redis://h/0/1", "the number of a database, as /0"),
        ("redis://h/-1", "the number of a database, as /0"),
        ("redis://h/1?db=2", "names two databases"),
        ("redis://h?db=one", "the value of db"),
        ("redis://:123#45@h", "a '#' in it must be written %23"),
        ("redis://:12/45@h", "write '/', '?' and '#' of a password as %2F, %3F and %23"),
        ("redis://:12?45@h", "write '/', '?' and '#' of a password as %2F, %3F and %23"),
        ("redis://h?ssl=true", "TLS is asked for by rediss://"),
        ("redis://h?ssl_cert_reqs=none", "write rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "the value of ssl_cert_reqs"),
        ("redis://h?ssl_cert_req=none", "ssl_cert_req, is it ssl_cert_reqs?"),
        ("redis://h?virtual_host=1", "the database is written /0"),
        ("redis://h?max_connections=5", "qcore sets max_connections itself"),
        ("redis+socket:///run/redis.sock", "here it is written unix:///path"),
        ("sentinel://h1:26379;sentinel://h2:26379", "here it is written redis+sentinel://"),
        ("valkey://h", "here it is written redis://"),
        ("localhost:6379", "put redis:// in front"),
        ("unix://h/run/redis.sock", "a socket has a path and no host"),
        ("redis+cluster://h1:7000/1", "only database 0"),
        ("redis+cluster://u:p@h1:7000,u:p@h2:7000", "stand once"),
        ("redis+cluster://h1?no_such_option=1", "unknown option"),
        ("rediss+sentinel://h1/svc?socket_connect_timeout=soon", "socket_connect_timeout"),
        ("redis://h1?socket_timeout=1", "qcore sets socket_timeout itself"),
        ("rediss+sentinel://h1/svc?protocol=3", "qcore sets protocol itself"),
        ("redis+cluster://h1?decode_responses=true", "qcore sets decode_responses itself"),
        ("unix:///run/redis.sock?encoding=ascii", "qcore sets encoding itself"),
        ("redis://h1?no_such_option=1", "unknown option"),
        ("http://h1", "unknown scheme"),
    ],
)
def test_endpoint_says_what_is_wrong_with_a_url(url, why):
    with pytest.raises(ConfigError, match="is no Redis URL") as e:
        Endpoint(BrokerConfig(url=url))
    assert why in str(e.value)


def test_hosts_of_a_url_become_plain_urls_of_one_server_each():
    hosts = Hosts.parse("rediss+sentinel://u:p%40@h1:1,[::1]:2,h3/svc/4?lib_name=b", port=26379)
    assert hosts.addresses == (("h1", 1), ("::1", 2), ("h3", 26379))
    assert hosts.path == ("svc", "4")
    urls = [hosts.url(address, db="4") for address in hosts.addresses]
    assert urls[0] == "rediss://u:p%40@h1:1/4?lib_name=b"
    assert urls[1] == "rediss://u:p%40@[::1]:2/4?lib_name=b"
    assert hosts.url(hosts.addresses[2], credentials=False) == "rediss://h3:26379/0?lib_name=b"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("REDIS://h/", "redis://h:6379/0"),
        ("redis://h/7", "redis://h:6379/7"),
        ("redis://h?db=7", "redis://h:6379/7"),
        ("redis://:p[w%2F@h:1/0", "redis://:p%5Bw%2F@h:1/0"),
        ("redis://:a@b@h", "redis://:a%40b@h:6379/0"),
        ("redis://[::1]:7", "redis://[::1]:7/0"),
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "rediss://h:6379/0?ssl_cert_reqs=none"),
        ("rediss://h?ssl_cert_reqs=ssl.CERT_REQUIRED", "rediss://h:6379/0?ssl_cert_reqs=required"),
        ("unix:///run/my@socket?db=2", "unix:///run/my@socket?db=2"),
    ],
)
def test_url_of_one_server_is_read_in_one_way(url, plain):
    assert plain_url(url) == plain
    Endpoint(BrokerConfig(url=url))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS, so use redis://"),
        ("[SSL: RECORD_LAYER_FAILURE] record layer failure", "does not speak TLS, so use redis://"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", "?ssl_ca_certs=FILE"),
        ("Connection closed by server.", "use rediss:// if that port speaks TLS"),
        ("Error 111 connecting to h:6379.", "start it, or check the URL"),
    ],
)
def test_failure_to_connect_says_what_to_do(words, said):
    error = failure_of(LostConnection(words), "redis://h")
    assert type(error) is BrokerUnavailable
    assert said in str(error)


def test_backoff_is_short_where_another_server_takes_over():
    for url, max_s in (
        ("redis://h", 10.0),
        ("redis+sentinel://h/svc", 1),
        ("redis+cluster://h", 1),
    ):
        delays = Endpoint(BrokerConfig(url=url)).backoff(0.1, 10.0)
        waits = [delays.next_s() for _ in range(300)]
        assert max_s * 0.5 < max(waits) <= max_s


def test_endpoint_of_an_embedded_server_needs_a_folder():
    with pytest.raises(ConfigError, match="embedded:// needs a folder: embedded://PATH"):
        Endpoint(BrokerConfig(url="embedded://"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host:6379/3",
        "redis://user:pw@host",
        "rediss://host:6380/0",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=2",
        "embedded://some/folder",
    ],
)
def test_endpoint_connects_to_nothing_by_itself(url):
    Endpoint(BrokerConfig(url=url))


# -- backoff ---------------------------------------------------------------------------------------


def test_backoff_draws_below_a_bound_that_doubles_up_to_its_most(monkeypatch):
    monkeypatch.setattr(backoff._random, "uniform", lambda low, high: (low, high))
    delays = Backoff(0.1, 1.0)
    drawn = [delays.next_s() for _ in range(6)]
    assert drawn == [(0, 0.1), (0, 0.2), (0, 0.4), (0, 0.8), (0, 1.0), (0, 1.0)]


def test_backoff_starts_again_after_a_reset(monkeypatch):
    monkeypatch.setattr(backoff._random, "uniform", lambda low, high: high)
    delays = Backoff(0.1, 1.0)
    delays.next_s()
    delays.next_s()
    delays.reset()
    assert delays.next_s() == 0.1


# -- error replies ---------------------------------------------------------------------------------

#: As redis-py hands them over: a class for the codes it knows, the code then cut off the text.
PASSING = [
    BusyLoadingError("Redis is loading the dataset in memory"),
    ReadOnlyError("You can't write against a read only replica."),
    ClusterDownError("The cluster is down"),
    MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    TryAgainError("Multiple keys request during rehashing of slot"),
    NoScriptError("No matching script. Please use EVAL."),
    MovedError("1234 127.0.0.1:6381"),
    AskError("1234 127.0.0.1:6381"),
    MaxConnectionsError("max number of clients reached"),
    LostConnection("max number of clients reached"),
    ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL"),
    ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's unable to"),
    ResponseError("NOREPLICAS Not enough good replicas to write."),
    ResponseError("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
    ResponseError("WAIT cannot be used with replica instances. Please also note that"),
    ResponseError("LOADING Redis is loading the dataset in memory"),
    ResponseError("CLUSTERDOWN Hash slot not served"),
    ResponseError("MASTERDOWN Link with MASTER is down"),
    ResponseError("MOVED 1234 127.0.0.1:6381"),
    ResponseError("ASK 1234 127.0.0.1:6381"),
    ResponseError("TRYAGAIN Multiple keys request during rehashing of slot"),
]
REFUSING = [
    AuthenticationError("Authentication required."),
    AuthenticationError("invalid password"),
    NoPermissionError("this user has no permissions to run the 'evalsha' command"),
    ResponseError("NOAUTH Authentication required."),
    ResponseError("WRONGPASS invalid username-password pair or user is disabled."),
    ResponseError("NOPERM this user has no permissions to access one of the keys"),
    ResponseError("unknown command 'ZMSCORE', with args beginning with: "),
]


def wrapped(text: str) -> ResponseError:
    """An error of a command inside a script, as Redis 6.2 tells it."""
    return ResponseError(
        f"Error running script (call to f_0123456789abcdef0123456789abcdef01234567): "
        f"@user_script:24: @user_script: 24: -{text}"
    )


@pytest.mark.parametrize("reply", PASSING, ids=str)
def test_error_of_a_state_that_passes_is_unavailable_and_applied_nothing(reply):
    error = error_of(reply)
    assert isinstance(error, BrokerUnavailable)
    assert error.sent is False
    assert str(reply).rstrip(".") in str(error)


def test_error_of_a_replica_says_what_to_do_and_nothing_of_the_script():
    text = "You can't write against a read only replica. script: " + 40 * "a"
    assert str(error_of(ReadOnlyError(text + ", on @user_script:34."))) == (
        "Redis cannot do this at the moment: You can't write against a read only replica; give the "
        "address of its master"
    )


@pytest.mark.parametrize("reply", REFUSING, ids=str)
def test_error_that_stays_is_refused_and_says_what_to_check(reply):
    error = error_of(reply)
    assert type(error) is BrokerRefused
    assert str(error).endswith("check user, password and rights")


def test_error_of_a_queue_that_is_closed_survives_a_time_of_no_calendar():
    error = error_of(ResponseError("QCLOSED 999999999999999 {qcore:bulk}:jobs script: 0"))
    assert str(error).startswith("queue bulk is closed since 999999999999999 ms, nothing was")


@pytest.mark.parametrize(
    "reply",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ResponseError("OOM command not allowed when used memory > 'maxmemory'."),
        wrapped("OOM command not allowed when used memory > 'maxmemory'."),
        ResponseError(
            "OOM allow-oom flag is not set on the script, can not run it when used memory > "
            "'maxmemory'"
        ),
    ],
    ids=str,
)
def test_error_of_a_full_server_is_queue_full(reply):
    assert type(error_of(reply)) is QueueFull


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("READONLY You can't write against a read only replica.", BrokerUnavailable),
        ("MISCONF Errors writing to the AOF file: No space left on device", BrokerUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", BrokerUnavailable),
        ("MASTERDOWN Link with MASTER is down", BrokerUnavailable),
        ("CLUSTERDOWN The cluster is down", BrokerUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", BrokerUnavailable),
        ("NOPERM this user has no permissions to run the 'hset' command", BrokerRefused),
    ],
)
def test_error_wrapped_by_redis_62_is_found_in_the_text(text, kind):
    assert type(error_of(wrapped(text))) is kind


@pytest.mark.parametrize(
    "reply",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        wrapped("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ResponseError("BUSYGROUP Consumer Group name already exists"),
        ResponseError("CROSSSLOT Keys in request don't hash to the same slot"),
        ResponseError("value is not an integer or out of range"),
        ResponseError("user_script:7: attempt to compare nil with number"),
    ],
    ids=str,
)
def test_error_that_is_a_fault_of_the_program_is_no_other(reply):
    error = error_of(reply)
    assert type(error) is BrokerError
    assert str(reply) in str(error)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (NoScriptError("No matching script. Please use EVAL."), True),
        (ResponseError("NOSCRIPT No matching script. Please use EVAL."), True),
        (ResponseError("WRONGTYPE Operation against a key"), False),
        (b"NOSCRIPT", False),
        ([b"NOSCRIPT"], False),
        (None, False),
    ],
)
def test_unknown_script_is_told_from_every_other_reply(reply, expected):
    assert unknown_script(reply) is expected
