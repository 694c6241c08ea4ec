"""Training of SAEs: explicit sparse gradients, repairs of dead latents, and a trainer that can be stopped at any update."""
