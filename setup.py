"""Packaging of OMC: `pip install .` is the library, extras add simulations and tests."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).resolve().parent


def _version() -> str:
    # Read, not imported: importing omc would need TensorFlow at build time.
    text = (_HERE / "omc" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def _readme() -> str:
    readme = _HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# 0.87.0 is the only release that works with TensorFlow 2.14, and there is none for Python 3.12. Its
# metadata demands a jaxlib that is no longer published, so pip cannot resolve this extra by itself:
# install from requirements/lock.txt (`make setup`), or resolve with requirements/overrides.txt.
_TFF = ['tensorflow-federated==0.87.0; python_version < "3.12"', "grpcio"]
_TFF += ['tensorflow>=2.14,<2.15; python_version < "3.12"']
_SIMS = [*_TFF, "scikit-learn", "scipy", "matplotlib", "pillow", "memray", "espeakng-loader"]
_SIMS += ["jiwer"]
_TEST = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "gfloat==0.5.2", "ruff"]

setuptools.setup(
    name="omc",
    version=_version(),
    description="Memory-constrained on-device federated training for TensorFlow and Keras.",
    long_description=_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["omc*", "models*", "tff_sims*"]),
    # The native ops are compiled on the user's machine, against the TensorFlow installed there.
    package_data={
        "omc": ["kernels/*.cc", "kernels/*.cpp", "kernels/*.h"],
        "omc.kernels.worker": ["*.cc", "*.h"],
    },
    python_requires=">=3.9",
    install_requires=[
        # Whichever is there, of those that were tried, with the Keras that comes with it: from 2.16
        # on Keras 3, or tf-keras where TF_USE_LEGACY_KERAS=1 is set.
        "tensorflow>=2.14,<2.22",
        "numpy",
        "absl-py",
        "psutil",
        "safetensors",
    ],
    extras_require={"keras2": ["tf-keras>=2.16,<2.22"], "tff": _TFF, "sims": _SIMS, "test": _TEST},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
