"""Room of the phase `problems`."""
