"""Computations in two forms: with the native ops, for workers that have them, and without.

TFF traces a computation when it is defined, which may be long before a worker is known.
"""

import threading

import tensorflow_federated as tff

from omc.learning.runtime import workers_have_ops


class Forms:
    """What a function traces, once for each kind of workers, when they first need it."""

    def __init__(self, trace):
        """Traces nothing yet.

        Args:
            trace: No-arg function; returns TFF computations, or something that holds them.
        """
        self._trace = trace
        self._traced = {}
        self._lock = threading.Lock()

    def current(self):
        """The form for the workers of the current runtime; the pure one outside of any."""
        ops = workers_have_ops()
        with self._lock:
            if ops not in self._traced:
                self._traced[ops] = self._trace()
            return self._traced[ops]


class LearningProcess(tff.learning.templates.LearningProcess):
    """A learning process that is right for whichever runtime it is called in.

    `initialize` and `next` are those of the current runtime's form. Their types are the same in
    both, so one's state goes into the other, with the same results to the bit.
    """

    def __init__(self, build):
        """Builds the form for where we are, so that mistakes show at once.

        Args:
            build: No-arg function that builds a `tff.learning.templates.LearningProcess`.
        """
        self._forms = Forms(build)
        first = self._forms.current()
        super().__init__(
            first.initialize, first.next, first.get_model_weights, first.set_model_weights
        )

    @property
    def initialize(self):
        """Computation of the initial state."""
        return self._forms.current().initialize

    @property
    def next(self):
        """Computation of one round."""
        return self._forms.current().next
