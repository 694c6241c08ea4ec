"""Room of the phase `activations`."""
