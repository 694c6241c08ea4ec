"""Room of the phase `traces`."""
