"""The thin part for Keras 3 on TensorFlow."""
