"""What training reads and writes: prompts, text embeddings, clips and trajectories."""
