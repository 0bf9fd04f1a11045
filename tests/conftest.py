"""Settings that all tests share: hypothesis profiles, and one torch thread for each xdist worker."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

if "PYTEST_XDIST_WORKER" in os.environ:
    # torch and numpy read these when they are first imported, and so do the processes that a test starts.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    if "torch" in sys.modules:  # too late for the variables: a plugin has imported it already
        sys.modules["torch"].set_num_threads(1)

# Building a model takes long the first time and is cached after, which a deadline would call flaky.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=2000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # slow is what was asked for
)
PROFILES = ("dev", "ci", "thorough")


def _profile() -> str:
    chosen = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
    if chosen not in PROFILES:
        raise pytest.UsageError(
            f"HYPOTHESIS_PROFILE is {chosen!r}, but the profiles are {', '.join(PROFILES)}: set it to one of them, "
            f"or unset it."
        )
    return chosen


settings.load_profile(_profile())
