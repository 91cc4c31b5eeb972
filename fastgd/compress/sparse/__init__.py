"""A few coordinates as they are, or in eight bits: the largest (TopK), those above a level (Threshold), random ones (RandK).

TopK and Threshold send indices; RandK's follow from the seed. TopK is exact, always: a guess at the k-th largest magnitude,
from the last step or from a sample, decides how many candidates there are to choose from, never which are chosen.
"""
