"""The thin part for Keras 2: of TensorFlow 2.14, or the package tf-keras."""
