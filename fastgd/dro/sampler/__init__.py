"""The robust sampler: probabilities that follow the losses inside a divergence ball, in O(log n)."""
