"""What a client has allocated while it trains, every malloc counted."""

from tests.own_process import heap_peaks

CLIENT = """
import sys
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from omc import Policy
from omc.learning import FedMPQ, Widths, uplinks
from omc.learning.client_works import ClientTrainer
from omc.learning.downlinks import Codes, delivered
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from omc.measurement import heap_peak

L, INPUTS, WIDTH, BATCH = tf.keras.layers, 4096, 256, 4096
x = np.zeros((BATCH, 1), np.float32)
data = tf.data.Dataset.from_tensor_slices((x, np.zeros(BATCH, np.int32))).batch(BATCH)

def model_fn():
    first = L.Dense(WIDTH, use_bias=False)  # 4 MB when dense; what comes after takes more.
    layers = [L.RepeatVector(1), L.Reshape((1,)), *(L.Dense(WIDTH, "relu") for _ in range(4))]
    inputs = tf.keras.Input((1,))
    hidden = tf.keras.Sequential(layers)(inputs)
    outputs = L.Dense(3)(hidden + first(tf.ones((1, INPUTS)) * tf.reduce_mean(inputs)))
    return tff.learning.models.from_keras_model(
        tf.keras.Model(inputs, outputs), input_spec=data.element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

def peak(widths, uplink):
    plan, numbers = ModelPlan.of(model_fn, Policy("INT8"), widths), (tf.constant(0), tf.constant(1))
    values = [variable.read_value() for variable in plan.variables(model_fn())]
    received, _ = delivered(Codes(), plan, values, (), *numbers)
    optimizer = LocalOptimizer(tff.learning.optimizers.build_sgdm(0.05))
    trainer = ClientTrainer(plan, received, optimizer, uplink)
    trainer.train(received, data, *numbers)
    peaks = []
    for _ in range(5):  # What lies beside what depends on threads: the least is the work's own.
        with heap_peak() as found:
            trainer.train(received, data, *numbers)
        peaks.append(found.bytes)
    return min(peaks)

print(peak(None, uplinks.Weights()), peak(None, uplinks.Update()))
print(peak(Widths((4,)), uplinks.Update()), peak(FedMPQ((4,)), uplinks.Update()))
"""
MIB = 1 << 20


def test_an_answer_takes_nothing_before_training_has_ended():
    weights, update, fixed, fedmpq = heap_peaks(CLIENT)
    # Either peak is a step's; a dense kernel would be 4 MiB. From process to process they scatter
    # by up to 2.5 MiB, with what threads happen to hold at a time.
    assert abs(update - weights) < 3 * MIB
    assert fedmpq < fixed + 3 * MIB
