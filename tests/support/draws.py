"""What the steps of the state machine of the scripts are drawn from."""

from hypothesis import strategies as st

from qcore.model.job import Acked, Buried, Released, Retried
from tests.support.model import HOUR_MS
from tests.support.moves import LEASE_MS, SECOND

OWNERS = ("aa", "bb")
KEEP_MS = 5 * SECOND
#: Crashes older than 72 h are forgotten.
late = st.sampled_from((0, 0, 71 * HOUR_MS, 73 * HOUR_MS, 73 * HOUR_MS))
#: How time goes on between two steps, and back.
steps = st.sampled_from((1, 500, SECOND, 4 * SECOND, LEASE_MS, 25 * HOUR_MS, 73 * HOUR_MS))
steps |= st.sampled_from((-1, -10 * SECOND, -2 * LEASE_MS, -30 * HOUR_MS))
#: Most of it happens in one queue.
queues = st.sampled_from(("one", "one", "one", "two"))
owners = st.sampled_from(OWNERS)
few = st.integers(1, 4)
delays = st.sampled_from((0, 1, 500, SECOND, LEASE_MS))
OUTCOMES = st.one_of(
    st.just(Acked()),
    st.builds(Acked, st.just(b"result"), st.sampled_from((0, 10, KEEP_MS))),
    st.builds(Retried, delays, st.just(b"retried")),
    st.just(Buried(b"buried")),
    st.just(Released()),
)
