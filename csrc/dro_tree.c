/* The sum tree: layout, and the entry points. */
#include "dro_tree.h"

int64_t fgd_tree_layout(fgd_tree *t, int64_t n, int64_t capacity)
{
    int64_t end = 0, size = capacity;
    t->n = n;
    t->capacity = capacity;
    t->levels = 0;
    do {
        t->first[t->levels++] = end;
        size = (size + 7) / 8;
        end += 8 * size;
    } while (size > 1);
    t->first[t->levels] = end;
    return end;
}
