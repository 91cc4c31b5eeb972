/* Ends one precision of a body file. */
#undef TN
#undef REAL
#undef LANES
#undef LANES_OF
#undef KEY
#undef SIGN_SHIFT
#undef MAGNITUDE
#undef INFINITE
#undef LOAD
#undef LOAD_TAIL
#undef ACC
#undef VECTORS
#undef SMALL
#undef VEC
#undef WIDTH
#undef SQUARE
