"""What holds for every test: quiet TensorFlow, fixed seeds, no worker process left behind."""

import os
import sys

# Before anything imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "1"  # Figures of every tensor, on every machine.

import hypothesis  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

# The first example of a property may trace a tf.function, which no fixed deadline allows for; and
# a test that fails once should fail every time.
hypothesis.settings.register_profile("omc", deadline=None, derandomize=True)
hypothesis.settings.load_profile("omc")


@pytest.fixture(autouse=True)
def _seeds():
    # A test that needs no TensorFlow should not pay for importing it.
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].keras.utils.set_random_seed(0)


def pytest_sessionfinish():
    # TensorFlow Federated's worker outlives its parent and holds our pipes open.
    workers = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name() == "worker_binary":
                child.kill()
                workers.append(child)
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(workers, timeout=10)
