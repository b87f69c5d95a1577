"""Mistakes with TFF's workers and what they can compute."""

import pytest

from omc import kernels
from omc.learning import local_runtime, worker_ops
from tests.error_cases.registry import case


@case("computation traced with native ops, worker without them")
def _(_folder):
    if not kernels.available():
        pytest.skip("no native ops on this machine, so nothing is traced with them")
    traced, _ = worker_ops._probe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMC_WORKER_OPS", "0")
        with local_runtime():
            traced()
