"""Room of the phase `policies`."""
