"""Settings, checked when they are made: `sae` says what an SAE is, `training` how it is trained."""
