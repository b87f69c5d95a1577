"""Trains one model on all data at once: in FP32, nested in INT8 codes, or at a width a layer."""

import contextlib
import dataclasses
import gc
import io
import json
import statistics
import time

import numpy as np
import tensorflow as tf

import omc
from omc.errors import InputError
from omc.keras.adapters import slim
from omc.keras.nesting import checked_nesting
from omc.measurement.peaks import count_allocations, measure_peak
from tff_sims import central_allocations, central_data
from tff_sims.central_allocations import stored_at
from tff_sims.central_settings import STORED_BITS
from tff_sims.results import (
    load_weights,
    save_weights,
    versions,
    weights_file,
    write_whole,
    writing,
)
from tff_sims.run_folder import RunFolder

_CHECKPOINT = "epoch.npz"
_UNCOUNTED = 2  # First steps of a process, which trace and warm up.


def train(settings, out, command="", on_epoch=None, on_start=None, restart=False):
    """Trains, measures and writes everything into a folder; goes on where an earlier call ended.

    Args:
        settings: `CentralSettings`, already checked.
        out: Folder for the results.
        command: Command line, for the summary.
        on_epoch: Function that is given (epochs done, epochs in all, the last one's log).
        on_start: Function that is given a line of text before training.
        restart: Begin anew.

    Returns:
        The summary, a dict.

    Raises:
        OmcError: A folder of another run, what the task or `omc.nest` refuses, or TensorFlow has
            begun without `omc.measurement.count_allocations`.
    """
    count_allocations()
    settings = settings.complete()
    folder = RunFolder(out)
    with folder.claim(settings, restart):
        finished, on_start = folder.summary(), on_start or (lambda text: None)
        if finished is not None:
            on_start(f"finished already; its results are in {folder.path}")
            return finished
        task = settings.make_task()
        data = central_data.load(task, settings.evaluate, settings.train_examples, settings.seed)
        if not data.steps(settings.batch_size):
            expected = f"at most {len(data.train[1])}, the training examples"
            raise InputError("batch_size", expected, settings.batch_size)
        run = _Run(settings, data, folder)
        on_start(run.described())
        run.fit(on_epoch or (lambda *_: None))
        summary = {**run.finish(), "versions": versions(), "command": command}
        with writing("the results"):
            text = json.dumps(summary, indent=2) + "\n"
            write_whole(folder.path / "summary.json", text.encode())
        folder.drop_checkpoints()
        return summary


class _Run:
    """The state of `train`."""

    def __init__(self, settings, data, folder):
        tf.keras.utils.set_random_seed(settings.seed)
        self._settings = settings
        self._data = data
        self._out = folder.path
        self._checkpoint = folder.checkpoints(settings.seed) / _CHECKPOINT
        self._log = []
        self._peak = None
        self._allocations = []
        self.model = self._started()
        self._sample = data.sample(settings.calibration, settings.seed)
        if settings.nested:
            switching = central_allocations.switching(self.model, settings, data)
            _nest(self.model, settings, self._sample, switching)
        if settings.allocated:
            self._stored = central_allocations.Stored(self._started(), settings, data)
            self._allocations.append(self._stored.wrap(self.model, settings.limits[0]))
        self._compile()

    def _started(self):
        """A plain model with the weights that the run starts from."""
        settings = self._settings
        model = self._data.subject.build(self._data.task)
        if settings.init is not None:
            load_weights(settings.init, settings.seed, model)
        return model

    def described(self):
        """One line: what is trained, and how far it is."""
        settings = self._settings
        how = f"nested at {settings.bits} bits" if settings.nested else "FP32"
        if settings.allocated:
            how = f"allocated at {settings.budgets} bits"
        how += f" by {settings.switching}" if settings.switching else ""
        steps = self._data.steps(settings.batch_size)
        return (
            f"{settings.task}, {how}: {settings.epochs} epochs of {steps} steps, "
            f"{len(self._log)} done; {len(self._data.task.test[1])} {settings.evaluate} examples"
        )

    def _compile(self):
        settings = self._settings
        # A nested step is one of the optimizer's at each width, or of each pass.
        steps = self._data.steps(settings.batch_size) * settings.epochs
        steps *= settings.passes
        rate = settings.learning_rate
        if settings.schedule == "cosine":
            rate = tf.keras.optimizers.schedules.CosineDecay(rate, max(steps, 1))
        optimizer = tf.keras.optimizers.SGD(rate, momentum=settings.momentum)
        self.model.compile(
            optimizer,
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )
        if settings.epochs:
            # Built now, so that a checkpoint finds all there is to fill.
            slim(optimizer)
            optimizer.build(self.model.trainable_variables)
            self._load()

    def fit(self, on_epoch):
        """Trains what is left of the epochs."""
        settings, watch = self._settings, _Watch()
        for epoch in range(len(self._log), settings.epochs):
            tf.keras.utils.set_random_seed(1000 * settings.seed + epoch)
            batches = self._data.epoch(epoch, settings.seed, settings.batch_size, settings.augment)
            start = time.perf_counter()
            history = self._fit(batches, watch, epoch == settings.epochs - 1).history
            log = {name: float(values[-1]) for name, values in history.items()}
            log.update(watch.taken(), seconds=time.perf_counter() - start)
            self._log.append(log)
            self._save()
            on_epoch(epoch + 1, settings.epochs, log)

    def _fit(self, batches, watch, last):
        with measure_peak() if last else contextlib.nullcontext() as peak:
            history = self.model.fit(batches, epochs=1, verbose=0, callbacks=[watch])
        if peak:
            self._peak = peak.allocator_bytes
        return history

    def finish(self):
        """Measures and saves the trained model; returns the summary."""
        settings = self._settings
        steps = self._data.steps(settings.batch_size) * settings.epochs
        finish = {"nested": self._finish_nested, "allocated": self._finish_allocated}
        measured = finish.get(settings.method, self._finish_fp32)()
        report = omc.memory_report(self.model)
        return {
            **dataclasses.asdict(settings),
            "accuracy": next(iter(measured["accuracies"].values())),
            **measured,
            "examples": len(self._data.train[1]),
            "steps": steps,
            "seconds_per_step": self._median("seconds_per_step"),
            "cpu_seconds_per_step": self._median("cpu_seconds_per_step"),
            "parameter_bytes": report.stored_bytes,
            "dense_parameter_bytes": report.dense_bytes,
            "peak_memory_bytes": self._peak,
            "log": self._log,
        }

    def _finish_fp32(self):
        settings, path = self._settings, weights_file(self._out, self._settings.seed)
        self._estimate_statistics()
        save_weights(self._out, settings.seed, self.model)
        return {
            "accuracies": {"32": self._data.task.evaluate(self.model)["accuracy"]},
            "bytes_at_width": {"32": omc.memory_report(self.model).stored_bytes},
            "artifact_bytes": path.stat().st_size,
        }

    def _finish_allocated(self):
        settings, path = self._settings, self._out / "model.omc"
        for budget in settings.limits[1:]:  # Where nothing is trained.
            self._measure_allocated()
            self.model = self._started()
            self._allocations.append(self._stored.wrap(self.model, budget))
        self._measure_allocated()
        with writing("the model"):
            omc.save(self.model, path)
        rows = {f"{row['budget']:g}": row for row in self._allocations}
        return {
            "accuracies": {budget: row["accuracy"] for budget, row in rows.items()},
            "bytes_at_width": {budget: row["nbytes"] for budget, row in rows.items()},
            "artifact_bytes": path.stat().st_size,
            "allocations": self._allocations,
        }

    def _estimate_statistics(self):
        """BatchNorm statistics from training examples as they are."""
        size = self._settings.batch_size
        starts = range(0, len(self._sample), size)
        omc.calibrate(self.model, [self._sample[start : start + size] for start in starts])

    def _measure_allocated(self):
        self._estimate_statistics()
        self._allocations[-1]["accuracy"] = self._data.task.evaluate(self.model)["accuracy"]

    def _finish_nested(self):
        settings, path = self._settings, self._out / "model.omc"
        omc.calibrate(self.model, self._sample)
        if settings.extra_widths:
            omc.calibrate(self.model, self._sample, settings.extra_widths)
        omc.nested.switch(self.model, settings.widths[0])
        with writing("the model"):
            omc.save(self.model, path)
        measured = {
            "accuracies": self._accuracies(),
            "bytes_at_width": {
                str(width): stored_at(self.model, width)
                for width in self._widths
                if width > 1  # Which no format stores by itself.
            },
            "artifact_bytes": path.stat().st_size,
        }
        if settings.limits:
            measured["allocations"] = central_allocations.measured(
                self.model, settings, self._data, self._sample
            )
            omc.calibrate(self.model, self._sample)
        if settings.read_by_shift:
            _read_by_shift(self.model, self._sample)
            measured["shift_accuracies"] = self._accuracies()
        return measured

    def _median(self, name):
        values = [log[name] for log in self._log if name in log]
        return statistics.median(values) if values else None

    @property
    def _widths(self):
        """Measured widths, trained ones first."""
        return (*self._settings.widths, *self._settings.extra_widths)

    def _accuracies(self):
        """Dict of a width, a str, -> accuracy."""
        found = {}
        for width in self._widths:
            omc.nested.switch(self.model, width)
            found[str(width)] = self._data.task.evaluate(self.model)["accuracy"]
        return found

    def _kept(self):
        """Every variable that a checkpoint holds, in an order that only the settings decide."""
        found = list({id(v): v for v in self.model.variables}.values())
        updates = [getattr(v, "_updates", None) for v in found]
        if self._settings.nested:
            found += [v.learned_scale for v in checked_nesting(self.model).variables]
        found += [*self.model.optimizer.variables, *(v for v in updates if v is not None)]
        return [getattr(v, "buffer", v) for v in found]

    def _save(self):
        arrays = {f"v{i:05d}": v.numpy() for i, v in enumerate(self._kept())}
        buffer = io.BytesIO()
        np.savez(buffer, log=json.dumps(self._log), **arrays)
        with writing("a checkpoint"):
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._checkpoint, buffer.getvalue())
        gc.collect()

    def _load(self):
        if not self._checkpoint.exists():
            return
        with np.load(self._checkpoint) as archive:
            self._log = json.loads(str(archive["log"]))
            for i, variable in enumerate(self._kept()):
                variable.assign(archive[f"v{i:05d}"])


class _Watch(tf.keras.callbacks.Callback):
    """Takes the time of each step."""

    def __init__(self):
        super().__init__()
        self._supports_tf_logs = True
        self._steps, self._seen = [], 0

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        self._seen += 1
        if self._seen > _UNCOUNTED:
            now = time.perf_counter(), time.process_time()
            self._steps.append([end - start for end, start in zip(now, self._start)])

    def taken(self):
        """Median times of the steps since the last call."""
        if not self._steps:
            return {}
        wall, cpu = np.median(self._steps, axis=0)
        self._steps = []
        return {"seconds_per_step": float(wall), "cpu_seconds_per_step": float(cpu)}


def _nest(model, settings, sample, switching):
    activations = settings.activations
    if activations.isdigit():
        activations = int(activations)
    omc.nest(
        model,
        bits=settings.widths,
        calibration=sample,
        activations=None if activations == "none" else activations,
        batchnorm=settings.batchnorm,
        policy=omc.Policy(f"INT{STORED_BITS}", seed=settings.seed),
        rounding=settings.rounding,
        distillation=settings.distillation,
        alrs=settings.alrs,
        switching=switching,
    )


def _read_by_shift(model, sample):
    """Has a trained model read by the bare shift, with BatchNorm statistics of its own."""
    state = checked_nesting(model)
    state.options = dataclasses.replace(state.options, rounding="shift")
    omc.calibrate(model, sample, sorted(state.prepared, reverse=True))
