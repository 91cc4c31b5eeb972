"""Locality-sensitive hashes: a few bits that keep the angles between long vectors, and distances between them.

Hash of a vector: bit b is 1 where its projection onto the normal of plane b is positive. With Gaussian normals two vectors
at the angle theta differ in each bit with probability theta / pi [Charikar 2002], so pi times the share of bits that
differ estimates the angle, whatever the vectors' lengths. Random signs share that law where no few coordinates outweigh
all others.

=============== ==================================================================================================
function        planes
=============== ==================================================================================================
``simhash``     random signs over all coordinates of a vector; nothing of them is stored
``lshgm``       standard normal vectors over the rows of each layer's matrix, one bit a column [LSHFed]
``hamming``     counts the bits that differ
=============== ==================================================================================================

The planes of `simhash`
-----------------------
With F = 4096 and coordinate c = k F + j, 0 <= j < F, plane b of group g = b div 256 has the sign

    A_g(k, p) C_b(p)    at the position    p = (j + turn_g(k)) mod F,

each factor -1 where a bit is set, +1 elsewhere, of words that `fastgd.random` makes:

=============== ==================================================================================================
A_g(k, p)       bit p mod 32 of ``bits32(seed, 1 + g)``, element 128 k + p div 32
turn_g(k)       ``hash32(seed, 1 + g)``, element k, mod F; but turn_g(0) = 0
C_b(p)          bit b mod 32 of ``bits32(seed, 0)``, element 4096 (b div 32) + p
=============== ==================================================================================================

So each plane is a vector of independent fair signs, and the angle law is that of random signs, for every vector. What
makes the hash cheap is that the 256 planes of a group share A and the turns: a vector is first folded onto 4096 positions
(one addition a coordinate), and the planes then see 4096 numbers instead of d.

The price: the planes of a group are independent of each other up to d = 4096, beyond it not quite. Two coordinates of
different blocks k meet at one position with probability 1 / 4096, and then all planes of the group see them with the same
relative sign. For vectors of many comparable coordinates the share of differing bits keeps its mean, p = theta / pi, and its
variance grows by a factor of 1 + 255 sin^2(theta) / (4096 pi^2 p (1 - p)), at most 1.03. Of two dominating coordinates it is
the rare meeting, for one seed in 4096, that the same factor stands for: such a hash then sees one coordinate for two.
Hashes that must not be looked for in advance by an adversary need a seed that he does not know.

References
----------
Charikar: Similarity Estimation Techniques from Rounding Algorithms (STOC 2002). Weinberger et al.: Feature Hashing for
Large Scale Multitask Learning (ICML 2009), for the folding. LSHFed (arXiv 2511.01296, 2025).
"""

from ..._arrays import FLOATS
from ..._dispatch import register

register("robust", ("simhash", "lshgm"), ("cpu", "cuda", "reference"), FLOATS, folder="hashing")
register("robust", ("hamming",), ("cpu", "cuda", "reference"), ("uint8",), folder="hashing")

from .counting import hamming  # noqa: E402  (the rows above must stand in the table first)
from .hyperplanes import simhash  # noqa: E402
from .layerwise import lshgm, lshgm_choice  # noqa: E402

__all__ = ["hamming", "lshgm", "lshgm_choice", "simhash"]
