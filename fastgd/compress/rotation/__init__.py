"""Drive: random signs and a Hadamard transform of each 4096 coordinates, then 1 to 4 bits a coordinate (DRIVE, EDEN)."""
