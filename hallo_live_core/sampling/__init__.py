"""Turns noise into latents: the student's stream and the teacher's loop."""
