/* Weights of an encoding's own: read from tensors, or drawn at random. */
#include "../model.h"

#include <math.h>

double rope_uniform(uint64_t *state)
{
    return (double)(rng_next(state) >> 11) * 0x1p-52 - 1;
}

/* Uniform in +-sqrt(3) size: of standard deviation size. */
static void draw(Rope *r, const RopePart *p, uint64_t *state)
{
    r->n_w[p->w] = (size_t)(p->cols * p->rows);
    r->w[p->w] = xcalloc(r->n_w[p->w] + 1, sizeof(float));
    for (size_t i = 0; i < r->n_w[p->w]; i++)
        r->w[p->w][i] = (float)(p->size * 1.7320508 * rope_uniform(state));
}

static int refuse_weights(const Rope *r, const RopePart *p, Err *e)
{
    for (size_t i = 0; i < r->n_w[p->w]; i++)
        if (!(fabs((double)r->w[p->w][i]) <= 1e6))
            return err_set(e,
                           "rope %s: layer %d: tensor '%s': weight %zu is %g; expected at most "
                           "1e6",
                           r->kind->name, r->p.layer, p->name, i, (double)r->w[p->w][i]);
    return 0;
}

static int refuse_missing(const Rope *r, const char *name, Err *e)
{
    return err_set(e,
                   "%s%srope %s: layer %d: tensor '%s' is missing, and these settings ask for it",
                   r->file ? r->file : "", r->file ? ": " : "", r->kind->name, r->p.layer, name);
}

int rope_load_parts(Rope *r, RopeSource *s, const RopePart *part, int n, uint64_t seed, Err *e)
{
    uint64_t state = seed * 4096 + (uint64_t)r->p.layer;
    const char *missing = NULL;
    int there = 0;
    for (int i = 0; i < n; i++) {
        if (!part[i].rows) continue;
        int found = rope_tensor(s, r, part[i].w, part[i].name, part[i].cols, part[i].rows, e);
        if (found < 0 || (found && refuse_weights(r, &part[i], e))) return -1;
        there |= found;
        if (!found && !missing) missing = part[i].name;
        if (missing && (there || r->file)) return refuse_missing(r, missing, e);
    }
    if (there && seed)
        return err_usage(e, "--rope %s: there are weights: leave out seed", r->kind->name);
    for (int i = 0; seed && i < n; i++)
        if (part[i].rows) draw(r, &part[i], &state);
    return 0;
}
