/* What an encoding makes of distance, found out through its hooks. */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The tokens of one timeline as a single head sees them, one after the other. */
typedef struct {
    Rope now; /* with the frequencies in force; they belong to the walk */
    RopeCall call;
    int kh, part, length;
    int t;                          /* the last token */
    int ones;                       /* values that are 1 */
    float *one, *x, *key, *cos_sin; /* [D] before and after; [D] key of token 0; [2 P] */
    float *hidden;                  /* [E] zeros */
    double *angle;                  /* [P] of token t */
} Walk;

int rope_heads(const Rope *r)
{
    return r->p.n_heads * r->p.copies;
}

/* 1 in the first value of each pair, and of each two values past the last pair. */
static void fill_ones(Walk *w)
{
    for (int j = 0; j < w->now.n_pairs; j++) {
        int a, b;
        rope_pair(&w->now, j, &a, &b);
        w->one[a] = 1;
    }
    for (int c = 2 * w->now.n_pairs; c < w->now.p.head_dim; c += 2) w->one[c] = 1;
    for (int c = 0; c < w->now.p.head_dim; c++) w->ones += w->one[c] > 0;
}

/* x[D] = the query or key of token t as attention meets it. */
static void walk_turn(Walk *w, int part, float *x, int t)
{
    const Rope *r = &w->now;
    memcpy(x, w->one, (size_t)r->p.head_dim * sizeof *x);
    if (!r->kind->angles) {
        size_t set = r->sets > 1 ? (size_t)w->kh : 0;
        RopeAt at = {.r = r,
                     .inv_freq = r->inv_freq + set * (size_t)r->n_pairs,
                     .part = part,
                     .kh = w->kh,
                     .length = w->length,
                     .p = rope_position(r, t)};
        rope_apply_at(&at, x, t, w->cos_sin);
        return;
    }
    for (int j = 0; j < r->n_pairs; j++) {
        w->cos_sin[j] = (float)(cos(w->angle[j]) * r->amplitude);
        w->cos_sin[r->n_pairs + j] = (float)(sin(w->angle[j]) * r->amplitude);
    }
    rope_turn(r, part, w->kh, x, t, w->cos_sin);
}

/* Frequencies for the query at token t. 1: they have changed; -1: error. */
static int walk_length(Walk *w, int t, Err *e)
{
    const RopeKind *kind = w->now.kind;
    int length = kind->length ? kind->length(&w->now, t) : 0;
    if (length == w->length) return 0;
    w->length = length;
    return kind->freqs(&w->now, length, w->now.inv_freq, &w->now.amplitude, e) ? -1 : 1;
}

/* What happens when token t comes: keys are turned again, or changed. */
static int walk_token(Walk *w, int t, Err *e)
{
    const RopeKind *kind = w->now.kind;
    int changed = walk_length(w, t, e);
    if (changed < 0) return -1;
    w->t = w->call.pos = t;
    if (kind->observe) kind->observe(&w->call, w->kh);
    if (kind->angles) kind->angles(&w->call, w->kh, w->angle);
    if (t == 0 || changed)
        walk_turn(w, ROPE_K, w->key, 0);
    else if (kind->update)
        kind->update(&w->call, w->kh, 0, w->key, 1);
    return 0;
}

static int walk_to(Walk *w, int t, Err *e)
{
    const RopeKind *kind = w->now.kind;
    if (!kind->observe && !kind->angles && !kind->update && t > w->t) w->t = t - 1;
    while (w->t < t)
        if (walk_token(w, w->t + 1, e)) return -1;
    return 0;
}

static int walk_begin(Walk *w, const Rope *r, int h, Err *e)
{
    const RopeKind *kind = r->kind;
    size_t D = (size_t)r->p.head_dim, P = (size_t)r->n_pairs, E = (size_t)r->p.n_embd;
    size_t n_freq = (size_t)r->sets * P;
    *w = (Walk){.now = *r, .kh = h / (rope_heads(r) / r->p.n_kv_heads)};
    w->part = kind->part ? kind->part(r, h) : ROPE_Q;
    w->length = kind->length ? kind->length(r, 0) : 0;
    w->now.inv_freq = xcalloc(n_freq + 1, sizeof *w->now.inv_freq);
    memcpy(w->now.inv_freq, r->inv_freq, n_freq * sizeof *w->now.inv_freq);
    w->one = xcalloc(3 * D + 2 * P + E + 1, sizeof *w->one);
    w->x = w->one + D;
    w->key = w->x + D;
    w->cos_sin = w->key + D;
    w->hidden = w->cos_sin + 2 * P;
    w->angle = xcalloc(P + 1, sizeof *w->angle);
    w->call = (RopeCall){.r = &w->now, .k = &kernels_base, .n = 1, .x = w->hidden};
    if (kind->work) w->call.work = xcalloc((size_t)kind->work(r) + 1, sizeof(float));
    if (kind->memory) w->call.memory = xcalloc((size_t)kind->memory(r) + 1, sizeof(double));
    fill_ones(w);
    return walk_token(w, 0, e);
}

static void walk_end(Walk *w)
{
    free(w->now.inv_freq);
    free(w->one);
    free(w->angle);
    free(w->call.work);
    free(w->call.memory);
}

int rope_kernel(const Rope *r, int h, const int *distance, int n, double *k, double *bias, Err *e)
{
    Walk w;
    int rc = walk_begin(&w, r, h, e);
    for (int i = 0; !rc && i < n; i++) {
        float add = 0;
        rc = walk_to(&w, distance[i], e);
        walk_turn(&w, w.part, w.x, distance[i]);
        k[i] = 0;
        for (int c = 0; c < r->p.head_dim; c++) k[i] += (double)w.x[c] * (double)w.key[c];
        k[i] /= w.ones;
        if (r->kind->bias) r->kind->bias(r, h, distance[i], 0, 1, &add);
        bias[i] = (double)add;
    }
    walk_end(&w);
    return rc;
}

/* Of a kind that looks at the hidden state: what it adds from the first token to the second. Of any
 * other: inv_freq, times the positions per token. */
int rope_rates(const Rope *r, int length, double *theta, double *amplitude, Err *e)
{
    Walk w;
    double per_token = (rope_position(r, length) - rope_position(r, 0)) / fmax(1, length);
    int rc = walk_begin(&w, r, 0, e);
    if (!rc && r->kind->angles) {
        for (int j = 0; j < r->n_pairs; j++) theta[j] = w.angle[j];
        rc = walk_token(&w, 1, e);
        for (int j = 0; j < r->n_pairs; j++) theta[j] = fabs(w.angle[j] - theta[j]);
    } else if (!rc) {
        rc = walk_length(&w, length - 1, e) < 0 ? -1 : 0;
        for (int j = 0; j < r->n_pairs; j++) theta[j] = fabs(w.now.inv_freq[j] * per_token);
    }
    *amplitude = w.now.amplitude;
    walk_end(&w);
    return rc;
}
