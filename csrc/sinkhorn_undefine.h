/* Ends one precision of the Sinkhorn sweeps. */
#undef TN
#undef REAL
#undef OF
#undef VEC
#undef INT
#undef WIDTH
#undef PARTS
#undef SHIFT
#undef PLACE
#undef LEAST
#undef GREATEST
#undef SMALL
#undef LARGE
#undef SWELL
