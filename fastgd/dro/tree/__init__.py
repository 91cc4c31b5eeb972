"""The sum tree: weights that change, drawn in proportion, in O(log n)."""
