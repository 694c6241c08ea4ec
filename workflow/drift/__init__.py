"""Room of the phase `drift`."""
