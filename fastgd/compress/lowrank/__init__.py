"""PowerSGD: a matrix as the product of two thin factors, one step of a power iteration at a time, with factors that stay finite.

The left factor is orthonormal whatever the matrix: what vanishes, because the matrix is zero, of low rank or tiny beside its
largest entries, is drawn anew instead of divided by. Sums have one order, so the bytes do not depend on threads or machine.
"""
