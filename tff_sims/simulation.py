"""The simulation program: rounds of federated training, measured, resumed after a kill."""

import concurrent.futures
import dataclasses
import math
import time

from absl import logging

from omc.errors import OmcError, WorkerError
from omc.learning import traffic
from omc.learning.models import ModelPlan
from tff_sims.aggregation import privacy
from tff_sims.checkpoints import Checkpoints, Progress
from tff_sims.client_process import measure_client
from tff_sims.evaluation import Evaluation, evaluate_classes, evaluate_own, evaluate_widths
from tff_sims.federation import build_process, runtime
from tff_sims.participation import draw_cohort
from tff_sims.results import (
    Releases,
    Round,
    load_weights,
    own_column,
    save_weights,
    width_column,
    write_summary,
)
from tff_sims.run_folder import RunFolder


def simulate(
    settings,
    out,
    command="",
    on_round=lambda row, done, total: None,
    on_start=lambda text: None,
    restart=False,
    workers=(),
):
    """Runs a simulation, or the rest of it, and writes its results.

    A folder in which the same simulation was interrupted is taken up at its last checkpoint; the
    results are those of a run without interruption, bit for bit, apart from times. A finished one
    is left as it is.

    Args:
        settings: `Settings`, already checked.
        out: Folder to write into; made if absent.
        command: Command line, for the summary.
        on_round: Called after each round with (Round, rounds done, rounds in all).
        on_start: Called with one line when the folder holds a run already.
        restart: Remove what the folder holds of an earlier run and begin anew.
        workers: Addresses of TFF workers to compute on; none for a local one. With method omc they
            change no result.

    Returns:
        The summary, a dict.

    Raises:
        WorkerError: A worker died; the same call goes on after the last round.
        InputError: The folder holds another run, or is in use; or weights to start from that do not
            fit the model.
    """
    folder = RunFolder(out)
    with folder.claim(settings, restart):
        done, total = folder.rounds_done(settings), settings.rounds * settings.repeats
        summary = folder.summary()
        if summary is not None:
            folder.drop_checkpoints()
            on_start(f"finished already: {out}; --restart begins anew.")
            return summary
        if done:
            on_start(f"resuming {out}: {done} of at most {total} rounds are done.")
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            memory = None
            if settings.client_memory:
                # Made before the run's own: neither loads its data beside the other.
                task = settings.make_task(settings.seed)
                # In a process of its own, while this one traces the rounds, which takes one core.
                memory = beside.submit(_client_memory, settings, task)
                del task  # The measurement holds it, and no longer than it needs to.
            rows = _train(settings, folder, on_round, workers)
            memory = memory and memory.result()
        task = settings.make_task(settings.seed)
        dense = sum(v.numpy().nbytes for v in task.build_model().variables)
        guarantee = privacy(settings, settings.rounds, task.num_clients)
        summary = write_summary(folder.path, settings, rows, memory, dense, command, guarantee)
        folder.drop_checkpoints()
    return summary


def _train(settings, folder, on_round, workers):
    """All runs, each from its last checkpoint; returns their rows."""
    before, total = [], settings.rounds * settings.repeats
    with runtime(workers):
        for seed in settings.seeds:
            run = _Run(settings, seed, folder, workers)
            releases = Releases(folder.path, settings, before + run.progress.rows)
            while not run.ended:
                row = run.step()
                releases.release(row)
                on_round(row, len(before) + row.round, total)
            run.finish()
            before += run.progress.rows
    return before


class _Run:
    """Rounds of one seed.

    Attributes:
        progress: `Progress` so far.
    """

    def __init__(self, settings, seed, folder, workers):
        self._settings = settings
        self._seed = seed
        self._folder = folder
        self._task = settings.make_task(seed)
        # Before the model: Keras lets none be called that is older than one built in a graph.
        model_fn, policy = self._task.model_fn, settings.policy(seed)
        self._plan = ModelPlan.of(model_fn, policy)
        self._class_plan = ModelPlan.of(model_fn, policy, settings.make_widths(self._task))
        self._process = build_process(settings, seed, self._task, workers)
        state = self._process.initialize()
        self._model = self._task.build_model()
        self._evaluation = Evaluation(self._task, self._model, self._plan, settings.make_downlink())
        self._checkpoints = Checkpoints(folder.checkpoints(seed), settings.checkpoint_seconds)
        self.progress = self._checkpoints.load(Progress(self._initial(state), []))
        self._warm = False

    @property
    def ended(self):
        """Whether the last round is done, or the run stops early."""
        return _ends(self.progress.rows, self._settings)

    def step(self):
        """One round; returns its row."""
        number = len(self.progress.rows) + 1
        cohort = draw_cohort(self._task.num_clients, self._settings, self._seed, number)
        data = cohort.datasets(self._task)
        start = time.perf_counter()
        try:
            state, metrics = self._process.next(self.progress.state, data)
        except WorkerError:
            if self.progress.rows:
                self._checkpoints.save(self.progress, force=True)
            raise
        seconds = time.perf_counter() - start
        loss = float(metrics["client_work"]["train"]["loss"])
        if not cohort.answered and self._settings.aggregator != "private":  # Which adds noise.
            state = _without_answer(self.progress.state, state)
        if not cohort.answered:
            loss = math.nan
        accuracy = master_accuracy = math.nan
        further = {}
        if number % self._settings.evaluate_every == 0 or number == self._settings.rounds:
            held, master = self._evaluate(state, number)
            accuracy, master_accuracy = held["accuracy"], master["accuracy"]
            further = {name: value for name, value in held.items() if name != "accuracy"}
            further.update(self._by_width(state))
        counted = traffic(metrics)
        row = Round(
            seed=self._seed,
            round=number,
            accuracy=accuracy,
            master_accuracy=master_accuracy,
            train_loss=loss,
            clients=len(cohort.clients),
            failed=int(cohort.failed.sum()),
            stragglers=cohort.stragglers,
            downlink_bytes=counted["downlink_bytes"],
            uplink_bytes=counted["uplink_bytes"],
            parameter_bytes=counted["parameter_bytes"],
            seconds=seconds,
            warm=int(self._warm),
            rejected={
                fault: int(n) for fault, n in metrics["aggregator"].get("rejected", {}).items()
            },
            metrics=further,
            widths={str(bits): own for bits, own in counted.get("widths", {}).items()},
        )
        self._warm = True
        rows = [*self.progress.rows, row]
        if _ends(rows, self._settings):
            rows[-1] = row = dataclasses.replace(
                row, metrics={**further, **self._own(state, cohort)}
            )
        self.progress = Progress(state, rows)
        self._checkpoints.save(self.progress, force=self.ended)
        return row

    def finish(self):
        """Writes the final weights."""
        self._weights(self.progress.state).assign_weights_to(self._model)
        save_weights(self._folder.path, self._seed, self._model)

    def _initial(self, state):
        if self._settings.init is None:
            return state
        load_weights(self._settings.init, self._seed, self._model)
        weights = self._weights(state).from_model(self._model)
        return self._process.set_model_weights(state, weights)

    def _weights(self, state):
        return self._process.get_model_weights(state)

    def _evaluate(self, state, number):
        self._weights(state).assign_weights_to(self._model)
        if self._settings.method == "fp32":
            master = self._task.evaluate(self._model)
            return master, master
        return self._evaluation(state.distributor["memory"], number)

    def _by_width(self, state):
        widths = self._class_plan.widths
        if widths is None:
            return {}
        self._weights(state).assign_weights_to(self._model)
        if widths.allocates:
            plan, allocation = self._class_plan, state.client_work
            found = evaluate_classes(self._task, self._model, plan, allocation)
        else:
            policy = self._settings.policy(self._seed)
            found = evaluate_widths(self._task, self._model, policy, widths.bits)
        return {width_column(bits): accuracy for bits, accuracy in found.items()}

    def _own(self, state, cohort):
        """Accuracy of some clients' own models, by width, of what they would train next."""
        # Such models are trained on clients' data without any noise.
        if self._class_plan.widths is None or self._settings.aggregator == "private":
            return {}
        settings, weights = self._settings, self._weights(state)
        rate = settings.learning_rate or self._task.learning_rate
        optimizer = self._task.client_optimizer(rate)
        federated = self._class_plan, settings.make_downlink(), settings.make_uplink(), optimizer
        values = [*weights.trainable, *weights.non_trainable]
        found = evaluate_own(self._task, self._model, federated, values, state, cohort.clients)
        return {own_column(bits): accuracy for bits, accuracy in found.items()}


def _ends(rows, settings):
    return len(rows) == settings.rounds or stops_early(rows, settings)


def stops_early(rows, settings):
    """Whether a run ends here, before its last round.

    It ends with the first evaluation at which the accuracy is `target` or better, or the best one
    is `stop_after` rounds old.

    Args:
        rows: List of `Round`, of one run.
        settings: `Settings`.
    """
    if not rows or not rows[-1].evaluated:
        return False
    if settings.target is not None and rows[-1].accuracy >= settings.target:
        return True
    best = max((row for row in rows if row.evaluated), key=lambda row: (row.accuracy, -row.round))
    return settings.stop_after is not None and rows[-1].round - best.round >= settings.stop_after


def _without_answer(before, after):
    """State after a round in which every client failed: nothing but the counters moved."""
    return after._replace(
        global_model_weights=before.global_model_weights,
        aggregator=before.aggregator,
        finalizer=before.finalizer,
    )


def _client_memory(settings, task):
    """Peak memory of one client alone, one with most examples; None where that fails."""
    try:
        return measure_client(
            settings.task,
            settings.task_arguments(settings.seed),
            settings.policy_arguments(settings.seed),
            task.largest_client,
            settings.learning_rate or task.learning_rate,
            settings.uplink,
            settings.uplink_options,
        )
    except OmcError as error:  # Hours of training are not to be lost for it.
        logging.warning("the summary goes without a client's memory: %s", error)
        return None
