"""Phase n2g: token patterns that explain single latents (Neuron2Graph), mined, scored and followed from stage to stage."""
