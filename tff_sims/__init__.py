"""Federated simulations on TFF: tasks, the simulation program, the demo."""
