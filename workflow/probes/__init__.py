"""Room of the phase `probes`."""
