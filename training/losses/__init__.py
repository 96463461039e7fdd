"""Losses: networks, clips and recorded draws in; a number with its gradient out."""
