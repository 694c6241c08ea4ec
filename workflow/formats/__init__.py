"""The on-disk contracts between rooms."""
