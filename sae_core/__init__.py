"""Sparse autoencoders: kernels, models, training and metrics on tensors. Opens no file; needs torch, numpy and jaxtyping alone."""
