"""Worlds with planted drift, and the chains of SAEs trained on them: the known answers that drift measures are checked against."""
