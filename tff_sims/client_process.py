"""One client's work alone in a fresh process, to measure what a device would need.

TFF's worker also holds server state, accumulators and other clients; a device does not. Run by
`measure_client`; as a program it prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys

from omc.errors import OmcError
from tff_sims.machine import end_with_parent

_MARK = "client-memory:"
# Every tensor is then a malloc of its own, so that none hides in a pool.
_NO_POOLS = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPU_ALLOCATOR_USE_BFC": "0"}


def measure_client(
    task, task_arguments, policy_arguments, client, learning_rate, uplink, uplink_options
):
    """Peak memory of one client's round, measured in a fresh process.

    Args:
        task: Name of the task.
        task_arguments: Dict of arguments of the task's function.
        policy_arguments: Dict of arguments of `omc.Policy`; {"format": "FP32"} for a plain client.
        client: Index of the client.
        learning_rate: Rate of the client's optimizer.
        uplink: Key of `omc.learning.uplinks.NAMED`.
        uplink_options: Arguments of its class, a dict.

    Returns:
        Dict of bytes: parameter_bytes (the model's variables), payload_bytes (what was received),
        work_bytes (most that the process had allocated on top while the client worked, every
        malloc counted), peak_bytes (their sum), process_peak_bytes (VmHWM of the whole process,
        Python and TensorFlow included) and process_start_bytes (the same before the model).

    Raises:
        OmcError: The process failed; its last line of output is in the message.
    """
    arguments = dict(
        task=task, task_arguments=task_arguments, policy=policy_arguments, client=client,
        learning_rate=learning_rate, uplink=uplink, uplink_options=uplink_options,
    )  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-m", "tff_sims.client_process", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **_NO_POOLS, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    for line in process.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK) :])
    last = (process.stderr.strip().splitlines() or ["no output"])[-1]
    raise OmcError("client process", "a measurement", last, "run it by hand to see its output.")


def _work(arguments):
    import numpy as np
    import tensorflow as tf

    import omc
    from omc.codecs import to_bytes
    from omc.learning import uplinks
    from omc.learning.client_works import ClientTrainer
    from omc.learning.local_optimizer import LocalOptimizer
    from omc.learning.models import ModelPlan
    from omc.measurement.peaks import heap_peak, process_peak_bytes
    from tff_sims.tasks import TASKS

    task = TASKS[arguments["task"]](**arguments["task_arguments"])
    plan = ModelPlan.of(task.model_fn, omc.Policy(**arguments["policy"]))
    mask = [bool(quantized) for quantized in plan.mask(0, arguments["client"])]
    start = process_peak_bytes()

    model = task.build_model()
    received = []
    for planned, quantized, variable in zip(plan.planned, mask, plan.variables(model)):
        value = variable.read_value()
        if planned.codec is not None:
            value = planned.codec.encode(value) if quantized else to_bytes(value)
        received.append(tf.constant(np.copy(value.numpy())))
    dataset = task.client_dataset(arguments["client"])
    del model, value, variable

    optimizer = LocalOptimizer(task.client_optimizer(arguments["learning_rate"]))
    uplink = uplinks.NAMED[arguments["uplink"]](**arguments["uplink_options"])
    trainer = ClientTrainer(plan, received, optimizer, uplink)
    numbers = tf.constant(0), tf.constant(arguments["client"])
    trainer.train(received, dataset, *numbers)  # Traces and compiles; a device would ship that.
    held = sum(v.nbytes if hasattr(v, "codec") else v.numpy().nbytes for v in trainer.variables)
    payload = sum(tensor.numpy().nbytes for tensor in received)
    with heap_peak() as peak:
        trainer.train(received, dataset, *numbers)
    return {
        "parameter_bytes": held,
        "payload_bytes": payload,
        "work_bytes": peak.bytes,
        "peak_bytes": held + payload + peak.bytes,
        "process_peak_bytes": process_peak_bytes(),
        "process_start_bytes": start,
    }


def main():
    """Reads the arguments as JSON from the command line, prints the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", help="arguments of measure_client, as JSON")
    end_with_parent()
    print(_MARK + json.dumps(_work(json.loads(parser.parse_args().arguments))))


if __name__ == "__main__":
    main()
