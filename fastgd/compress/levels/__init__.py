"""Every coordinate in a few bits: QSGD, Int8 and FP8 divide a bucket by its step and round, TernGrad keeps M, 0 or -M, Natural
keeps a power of two. `reference.py` says it in NumPy, `cpu.py` hands it to csrc/compress_levels.c; docs/wire.md has the bytes."""
