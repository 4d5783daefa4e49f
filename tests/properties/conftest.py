"""How much the property tests try: few examples each time, other ones each time."""

from hypothesis import HealthCheck, settings

# no deadline: the machine that runs them is shared
settings.register_profile(
    "qcore", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("qcore")
