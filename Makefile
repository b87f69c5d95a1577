# Everything runs in .venv, which `setup` makes and the other targets keep up to date.
# PYTHON=/path/to/python chooses the interpreter, ARGS="..." adds arguments to the command.

VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-machines test-newest lint bench build-file lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv: pinned packages and this repository (Python 3.9 to 3.11)
	@sh tools/setup.sh

demo: setup ## run the main demonstration, into runs/demo
	$(VENV_PYTHON) -m tff_sims.demo --out=runs/demo $(ARGS)

test: setup ## run the tests; ARGS="-k packing -x" narrows them
	$(VENV_PYTHON) -m pytest tests -n auto --dist loadfile $(ARGS)

# What depends on the processor: which allocator TensorFlow has, and which loops the native ops. The
# tests of `make test` run with those of this machine; here with others. Only loops of fewer
# instructions than the processor has can be asked for.
MACHINE_TESTS := tests/measurement tests/test_kernels.py tests/keras/test_transient.py \
	tests/keras/test_recompute.py tests/benchmarks/test_benchmarks.py
test-machines: setup ## run the tests of memory and kernels as on other processors
	TF_ENABLE_ONEDNN_OPTS=0 OMC_SIMD=portable $(VENV_PYTHON) -m pytest $(MACHINE_TESTS) -n auto --dist loadfile $(ARGS)
	TF_ENABLE_ONEDNN_OPTS=1 OMC_SIMD=avx2 $(VENV_PYTHON) -m pytest $(MACHINE_TESTS) -n auto --dist loadfile $(ARGS)

# The core on TensorFlow 2.21, in an environment of its own: all of its tests with Keras 3; with tf-keras
# a part, for time, that meets Keras most closely. TFF, and all that needs it, stays at 2.14. PART=1, as
# in CI, leaves out with Keras 3, too, what is tested on 2.14 and meets Keras least, and the largest models.
KERAS_3_TESTS := tests/keras tests/progressive tests/mixed_precision tests/coding \
	$(filter-out tests/test_errors.py,$(wildcard tests/test_*.py))
LARGEST_MODELS :=
ifdef PART
KERAS_3_TESTS := $(filter-out $(foreach name,distillation hasb hasb_allocations leaks nesting_ranges \
	nesting_regularized nesting_traces,tests/keras/test_$(name).py),$(wildcard tests/keras/test_*.py)) \
	tests/progressive/test_receiver.py tests/mixed_precision/test_allocate.py tests/test_kernels.py \
	tests/test_compressed.py tests/test_nested.py tests/test_artifacts.py tests/test_public.py
LARGEST_MODELS := -k "not (DenseNet121 or ConvNeXtTiny or Xception or ResNet50)"
endif
TF_KERAS_TESTS := tests/keras/test_host.py tests/keras/test_wrap.py tests/keras/test_layers.py \
	tests/keras/test_keras_life.py tests/keras/test_optimizers.py tests/keras/test_saving.py \
	tests/keras/test_mixed_precision.py tests/keras/test_nesting.py tests/keras/test_transient.py \
	tests/keras/test_exporting.py
test-newest: ## run the core's tests on the newest TensorFlow tried, in .venv-newest: Keras 3, tf-keras
	@sh tools/setup_newest.sh
	.venv-newest/bin/python -m pytest $(KERAS_3_TESTS) $(LARGEST_MODELS) -n auto --dist loadfile $(ARGS)
	TF_USE_LEGACY_KERAS=1 .venv-newest/bin/python -m pytest $(TF_KERAS_TESTS) -n auto --dist loadfile $(ARGS)

lint: setup ## check style and formatting
	$(VENV_PYTHON) -m ruff check . $(ARGS)
	$(VENV_PYTHON) -m ruff format --check .

bench: setup ## measure speed, memory and bytes, into runs/bench
	$(VENV_PYTHON) -m benchmarks --out=runs/bench $(ARGS)

build-file: setup ## write BUILD anew from the imports
	$(VENV_PYTHON) -m tools.build_file

# uv keeps the pins that stand in the lock already; ARGS=--upgrade lets go of them.
lock: ## resolve requirements/*.in into the pinned lock; ARGS=--upgrade renews it
	@sh tools/lock.sh $(ARGS)

clean: ## remove .venv, build outputs and caches; runs/ stays
	rm -rf .venv .venv-uv .venv-newest .python build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
