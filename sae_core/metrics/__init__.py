"""Measures of how well an SAE reconstructs rows."""
