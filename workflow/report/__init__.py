"""Room of the phase `report`."""
