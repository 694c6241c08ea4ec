"""Speed, memory and recovery of sae_core beside plain code and public SAE trainers; see README.md."""
