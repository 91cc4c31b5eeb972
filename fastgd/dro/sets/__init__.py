"""Uncertainty sets: the worst case over a divergence ball, and projections onto it."""
