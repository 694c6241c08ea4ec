"""Typed mirror of config.yaml: one module per section, so that a phase's code fingerprint reaches its own section only."""
