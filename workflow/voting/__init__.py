"""Room of the phase `voting`."""
