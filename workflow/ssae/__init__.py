"""Room of the phase `ssae`."""
