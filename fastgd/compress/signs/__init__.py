"""One bit a coordinate: `Sign` (mean magnitude), `OneBit` (the mean of each side), and the majority vote over sign bits."""
