"""CountSketch: tables of signed sums that add up like the vectors they stand for."""
