"""Room of the phase `saes`."""
