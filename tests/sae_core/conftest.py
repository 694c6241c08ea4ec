"""Shapes in the signatures of sae_core are checked by beartype in every test of this run."""

import sys

from jaxtyping import install_import_hook

if "sae_core" not in sys.modules:
    install_import_hook("sae_core", "beartype.beartype")
