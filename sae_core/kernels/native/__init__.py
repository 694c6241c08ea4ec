"""The backend for CPUs that is compiled: one C++ file, built once per instruction set."""
