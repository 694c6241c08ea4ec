"""The operations of an update as Triton kernels for CUDA; triton is imported by the modules of this package and nowhere else."""
