"""Receiver: a device's model, which parts make usable and then more precise, in place."""

import os

from omc import checks as checks_of
from omc.errors import ArtifactError, InputError, InputTypeError
from omc.formats import FP32
from omc.keras import host, nesting, saving, wrapping
from omc.keras.variable import CompressedVariable
from omc.policies import PlannedVariable, Policy, VariableSpec
from omc.progressive import checks, contents, folders, parts, streams, upgrading, widths
from omc.progressive.history import History
from omc.progressive.parts import Part

_TRAINED = ("refuse", "keep")
_A = {"delta": "a delta", "update": "an update"}


class Receiver:
    """Takes parts into a model, each verified as a whole before anything changes.

    The base wraps the plain model around the base's codes. A delta then replaces codes and format
    of one variable after the other; the `CompressedVariable`s stay the same objects, so that an
    optimizer keeps its slots. The stage "FP32" is a `CompressedVariable` too, of raw float32. An
    update leads from any stage to another version of the model (`split(..., known=...)`).

    A model may predict between parts. One that is trained is no longer what a delta applies to:
    with trained="refuse" the delta is refused, with trained="keep" what was learned is added to
    the next stage (`omc.progressive.upgrading.merge`), and the model is no stage's exact bits then.

    Keras' own traced functions are forgotten with every part. Functions that you traced yourself
    (`tf.function`) have to be traced again: the codes that they hold are emptied, and they fail.

    Attributes:
        model: The model.
        stages: Names of the stages of the chain that the base or update began; () before.
        index: Index of the stage that the model has; -1 before the base.
        digest: Digest (hex) of the state that the last part led to; None before.
    """

    def __init__(self, model, directory=None, trained="refuse", stage=None):
        """Takes a plain model, and what already arrived for it.

        Args:
            model: A built, plain `tf.keras.Model` of the architecture that was split. Its values do
                not matter.
            directory: Folder, made if it is not there, to keep each part in before it is applied;
                the parts that are whole in it are applied at once, as far as they make a chain.
                What is truncated, altered or foreign is passed over. None keeps nothing.
            trained: "refuse" or "keep", as above; "keep" takes what a delta's stage was delivered
                as out of the parts in the directory, so that no copy of it is in memory.
            stage: Name of the last stage to go to with what is in the directory, to load a model
                that was saved there; None for the last that there is.

        Raises:
            InputTypeError: `model` is no Keras model, or `directory` no path.
            ModelError: The model is unbuilt, already wrapped, or its optimizer has slots.
            InputError: `directory` cannot be made, is no folder, or is None with trained="keep" or
                with a `stage`; another `trained`; no part in the directory leads to `stage`.
            FormatError: `stage` is no format.
        """
        wrapping.check_kind(model)
        wrapping.check_built(model)
        wrapping.check_variables(model)
        checks_of.choice("trained", trained, _TRAINED)
        if trained == "keep" and directory is None:
            expected = "a folder, to keep what was learned across a part"
            raise InputError("directory", expected, directory, "Receiver(model, directory='parts')")
        if stage is not None and directory is None:
            expected = "a folder whose parts lead to `stage`"
            raise InputError("directory", expected, directory, "Receiver(model, directory='parts')")
        self.model = model
        self.stages, self.index, self.digest = (), -1, None
        self._structure, self._planned, self._parts = None, [], []
        self._interrupted, self._keeps, self._noted = None, trained == "keep", None
        self._directory = None if directory is None else folders.opened(directory)
        if self._directory is not None:
            chain = folders.kept(self._directory, model)
            chain = chain if stage is None else folders.until(chain, stage)
            self._noted = next(iter(folders.noted(self._directory)[-1:]), None)
            for part in chain:
                self._take(part)

    @property
    def stage(self):
        """Name of the stage that the model has; None before the base."""
        return self.stages[self.index] if self.index >= 0 else None

    @property
    def trained(self):
        """Whether the model is no longer the stage's exact bits. Every byte of it is hashed."""
        if self.index < 0:
            return False
        digests = map(contents.digest_of, saving.stored_order(self.model))
        return streams.state_digest(digests) != self.digest

    def apply(self, part):
        """Verifies a part, keeps it where there is a directory, and takes it into the model.

        Beside the model there is one variable at its new format, and a few megabytes; a few dense
        copies of one variable where what was learned is kept. Where the process is stopped in the
        middle of it (`KeyboardInterrupt`, out of memory), every variable is whole, at one stage or
        the other; applying the same part again completes it.

        Args:
            part: `Part`, bytes of one, or the path of its file.

        Returns:
            `model`.

        Raises:
            InputTypeError: `part` is none.
            ArtifactError: The part is damaged, of another architecture, of another chain, out of
                order, already applied, or the model has been trained since (with "keep": before an
                update); it cannot be kept in the directory, or the parts there were altered. The
                model is as it was.
            ModelError: With "keep", what was trained has become NaN or Inf. As it was, too.
        """
        return self._take(_as_part(part), keep=self._directory is not None)

    def _take(self, part, keep=False):
        self._check_order(part)
        if part.kind == "base":
            variables = saving.stored_order(self.model)
            checks.check_match(part, variables)
            checks.verify_base(part)
            part = self._kept(part, keep)
            self._install(part, variables)
        else:
            try:
                self._refine(part, keep)
            finally:
                if self._interrupted is not None:  # Functions hold the codes of before.
                    wrapping.forget_functions(self.model)
            self._renew_plan(part)
        self.stages, self.index, self.digest = part.stages, part.index, part.digest
        if self._directory is not None:
            self._parts.append(part)
            if part.sha256 != self._noted:
                folders.note(self._directory, part)
            self._noted = part.sha256
        if self._structure is not None:
            widths.use_stage(self.model, self._structure, part.stage)
        wrapping.forget_functions(self.model)
        return self.model

    def _refine(self, part, keep):
        """Takes a delta or an update, a variable at a time."""
        variables = saving.stored_order(self.model)
        digests, delivered, history = [contents.digest_of(v) for v in variables], None, None
        moved = self._interrupted is not None or streams.state_digest(digests) != part.base_digest
        if moved and self._keeps and part.kind == "delta":
            history = History(self._parts)
            delivered, targets = checks.verify_on_delivered(part, variables, history)
        elif moved and self._interrupted is None:
            raise self._changed(part)
        else:
            try:
                targets = checks.verify_step(part, variables, digests)
            except ArtifactError as error:
                if self._interrupted is None:
                    raise
                got = f"{error.got}; or the model has changed since it was interrupted"
                tip = "if it was trained meanwhile, take a new, plain model."
                raise ArtifactError("part", error.expected, got, tip) from error
        part = self._kept(part, keep)
        raw = contents.raw_values(part)
        self._interrupted = part.digest
        for entry in part.entries:
            place, variable = entry.place, variables[entry.place]
            if digests[place] == targets[place]:
                continue
            if entry.codec is None:
                if history is None or digests[place] == delivered[place]:  # Else it was trained.
                    variable.assign(raw[place])
            elif history is None or digests[place] == delivered[place]:
                upgrading.upgrade(part, entry, variable, targets[place])
            elif nesting.stored_codec(variable) != entry.codec:  # Else merged already.
                before = history.buffer(place)
                upgrading.merge(part, entry, variable, targets[place], before)
        self._interrupted = None
        host.settle(self.model)

    def _check_order(self, part):
        """Raises for a part that is not the next of this chain."""
        if self._interrupted is not None and part.digest != self._interrupted:
            expected = "the part whose application was interrupted"
            raise ArtifactError("part", expected, repr(part), "apply that one again.")
        expected = "a base, the first part of a chain"
        if self.index >= 0:
            if self.index + 1 == len(self.stages):
                expected = f"no further part: the model has the last stage, {self.stage}"
            else:
                expected = f"part {self.index + 1} of {self.stages}, given {self.stage}"
        tip = "apply the parts in the order of split()."
        if self.index >= 0 and part.digest == self.digest and part.base_digest != self.digest:
            raise ArtifactError("part", expected, f"{part!r}, which is already applied", tip)
        if self.index < 0 if part.kind == "update" else part.index != self.index + 1:
            raise ArtifactError("part", expected, f"{part!r}, out of order", tip)
        if part.kind == "base":
            return
        same = part.kind == "update" or part.stages == self.stages
        if not same or part.base_digest != self.digest:
            got = f"{part!r} of another chain, given {part.base_digest}"
            expected, tip = f"{_A[part.kind]} on {self.digest}", "split once, send all."
            if part.kind == "update":
                tip = "split(model, stages, known=the parts that were applied)."
            raise ArtifactError("part", expected, got, tip)

    def _changed(self, part):
        tip = "Receiver(..., trained='keep') keeps what was learned; or take a new, plain model."
        if part.kind == "update":
            tip = "a trained model takes no update; make a new Receiver of a plain model."
        return ArtifactError(
            "part",
            f"{_A[part.kind]} on the model as it is",
            f"{part!r}, for the model as the last part left it, which has changed since",
            tip,
        )

    def _kept(self, part, keep):
        """The part, on the disk first where it is to be kept."""
        return folders.keep(self._directory, part) if keep else part

    def _install(self, part, variables):
        """Wraps the plain model around a base that was verified."""
        model, properties = self.model, part.properties
        entries = {id(v): entry for v, entry in zip(variables, part.entries)}
        policy = Policy(FP32, rounding=properties["rounding"], seed=properties["seed"])

        def create(original, planned, index):
            entry = entries[id(original)]
            return CompressedVariable(
                entry.codec,
                contents.buffer_of(part, entry),
                name=planned.spec.name,
                trainable=original.trainable,
                constraint=original.constraint,
                seed=wrapping.rounding_seed(policy, index),
                autocast=host.autocasts(original),
            )

        plan = tuple(
            _planned(VariableSpec.of(v), entries[id(v)].codec, part.stage)
            for v in wrapping.variables_of(model)
        )
        raw, self._structure = contents.raw_values(part), properties.get("nesting")
        del variables[:]  # So that each dense original is gone before the next one's turn.
        wrapping.install(model, wrapping.variables_of(model), plan, create)
        self._planned = wrapping.variables_of(model)
        if self._structure is not None:
            widths.restore(model, saving.stored_order(model), self._structure)
        for variable, entry in zip(saving.stored_order(model), part.entries):
            if isinstance(variable, CompressedVariable) is not (entry.codec is not None):
                raise AssertionError(f"{variable.name} is not what the base says")
            if entry.codec is None:
                variable.assign(raw[entry.place])
        host.settle(model)

    def _renew_plan(self, part):
        plan = []
        for old, variable in zip(vars(self.model)["_omc_plan"], self._planned):
            if isinstance(variable, CompressedVariable):
                old = _planned(old.spec, nesting.stored_codec(variable), part.stage)
            plan.append(old)
        vars(self.model)["_omc_plan"] = tuple(plan)


def _planned(spec, codec, stage):
    if codec is None:
        return PlannedVariable(spec, FP32, "raw in the base")
    return PlannedVariable(spec, codec.format, f"stage {stage}", transform=codec.transform)


def _as_part(part):
    if isinstance(part, Part):
        return part
    if isinstance(part, (bytearray, memoryview, bytes)):
        return Part.from_bytes(part)
    if isinstance(part, (str, os.PathLike)):
        return parts.load(part)
    expected = "a Part, bytes of one, or the path of its file"
    raise InputTypeError("part", expected, type(part).__name__)
