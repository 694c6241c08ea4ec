"""Room of the phase interventions."""
