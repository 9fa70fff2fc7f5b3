/* `ropescope rope`: the registry, and one encoding explained, drawn against plain RoPE. */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAU 6.28318530717958647692

/* ---- what a kind is, as its hooks tell */

enum { LAYERS = 12, HEADS = 8, HEAD_DIM = 64, CONTEXT = 4096 }; /* of a model when none is given */

static int make_default(const RopeKind *kind, int layer, Rope *r)
{
    Err ignored;
    RopeParams p = rope_params(HEAD_DIM, 1e6); /* not the default of any second base */
    p.layer = layer;
    p.n_layers = LAYERS;
    p.n_heads = p.n_kv_heads = HEADS;
    p.n_embd = HEADS * HEAD_DIM;
    p.n_ctx_orig = p.n_ctx_train = CONTEXT;
    for (int i = 0; i < ROPE_ARGS; i++) p.arg[i] = kind->args[i].def;
    return rope_new(r, kind, &p, ROPE_HALF, NULL, &ignored);
}

static int same_in_layer(const Rope *a, const Rope *b)
{
    double scale = 0;
    size_t bytes = (size_t)a->n_pairs * sizeof *a->inv_freq;
    for (int t = 1; t < 1 << 24 && a->kind->q_scale; t *= 8)
        scale = fmax(scale, fabs(a->kind->q_scale(a, t) - b->kind->q_scale(b, t)));
    return a->n_pairs == b->n_pairs && !(scale > 0) && memcmp(a->inv_freq, b->inv_freq, bytes) == 0;
}

/* Does the number of the layer matter, in a model of LAYERS layers with the defaults? */
static int depends_on_layer(const RopeKind *kind)
{
    Rope first, r;
    int same = 1;
    if (make_default(kind, 0, &first)) return 0;
    for (int l = 1; same && l < LAYERS; l++) {
        if (make_default(kind, l, &r)) break;
        same = same_in_layer(&first, &r);
        rope_free(&r);
    }
    rope_free(&first);
    return !same;
}

enum { ALONE, BY_LENGTH, BY_LAYER, SCORES, MAPS, WEIGHTS, N_GROUPS };
static const struct {
    const char *name, *title;
} groups[N_GROUPS] = {
    {"frequencies", "Frequencies alone: one table of angles for all"},
    {"length", "Frequencies that change with the length of the text"},
    {"layers", "Not the same in every layer"},
    {"scores", "Something added to the scores, or a scale of the queries"},
    {"maps", "Queries and keys mapped by something else than one rotation by position"},
    {"weights", "With weights or lists of their own"},
};

static int group_of(const RopeKind *k)
{
    if (k->load) return WEIGHTS;
    if (k->turn || k->mix || k->angles || k->update || k->part || k->parts > 1 || k->per_head)
        return MAPS;
    if (depends_on_layer(k)) return BY_LAYER;
    if (k->bias || k->q_scale) return SCORES;
    return k->length ? BY_LENGTH : ALONE;
}

/* One word or two for each thing the angles are made from. */
static void say_needs(const RopeKind *k, Bytes *out)
{
    if (!k->angles) say(out, "position");
    if (k->length) say(out, "length");
    if (depends_on_layer(k)) say(out, "layer");
    if (k->angles || k->observe) say(out, "hidden state");
    if (k->memory) say(out, "state carried over tokens");
    if (k->load) say(out, "weights");
}

static void say_changes(const RopeKind *k, Bytes *out)
{
    say(out, k->turn || k->angles ? "angles" : "frequencies");
    if (k->position) say(out, "positions");
    if (k->mix) say(out, "map of queries and keys");
    if (k->length || k->update) say(out, "cached keys");
    if (k->q_scale) say(out, "scale of queries");
    if (k->bias) say(out, "scores");
    if (k->part) say(out, "attention heads");
}

/* Can keys be cached after rotation? */
static const char *cached_keys(const RopeKind *k)
{
    return k->update ? "rewritten" : k->length ? "turned again" : "final";
}

static void say_cache(const Rope *r, Bytes *out)
{
    const RopeKind *k = r->kind;
    if (k->update)
        say(out, "Keys in the cache are never final: every new token rewrites those before it, "
                 "which takes time in proportion to the context once more, and float32 (no --kv "
                 "f16); the tokens of a prompt are attended one after the other.");
    else if (k->length)
        say(out,
            "Rotated keys can be cached until the table changes with the length; then all of them "
            "are turned again. For that they are kept a second time, before rotation: %zu bytes "
            "per token, layer and key head.",
            (size_t)r->p.head_dim * sizeof(float));
    else
        say(out, "Rotated keys can be cached: they are final when they are written.");
}

/* What it takes besides the cos and sin of plain RoPE, per layer and key head. */
static void say_extras(const Rope *r, Bytes *out)
{
    const RopeKind *k = r->kind;
    size_t n_w = 0;
    for (int i = 0; i < ROPE_WEIGHTS; i++) n_w += r->n_w[i];
    if (k->angles)
        say(out, "Angles are found in the hidden state of every token: a table for each key head, "
                 "made anew in every layer.");
    else if (r->sets > 1)
        say(out,
            "A table of cos and sin for each key head, made in every layer: %d times the work "
            "of plain RoPE for angles.",
            r->sets);
    if (k->parts > 1)
        say(out, "%d tables of cos and sin: keys and queries do not turn alike.", k->parts);
    if (k->mix)
        say(out, "A linear map of the %d values of every query and key head before it turns.",
            r->p.head_dim);
    if (k->bias) say(out, "A number added to every score, for each head of its own.");
    if (k->q_scale) say(out, "Queries are multiplied by a number that depends on the position.");
    if (r->p.copies > 1)
        say(out,
            "Attention has %d times the heads, over the same keys and values: %d times its "
            "time, no more cache.",
            r->p.copies, r->p.copies);
    if (k->work && k->work(r))
        say(out, "%d floats per token of a batch and key head, to work with.", k->work(r));
    if (k->memory && k->memory(r))
        say(out, "%d doubles carried from token to token, per layer and key head.", k->memory(r));
    if (n_w) say(out, "%zu weights of its own in a layer.", n_w);
}

static void say_cost(const Rope *r, Bytes *out)
{
    size_t before = out->n;
    say_extras(r, out);
    if (out->n == before && !r->kind->length && !r->kind->update)
        say(out, "No more time or memory than plain RoPE: one table of cos and sin for the tokens "
                 "of a batch, shared by layers and heads.");
    say_cache(r, out);
}

/* ---- the numbers of one encoding */

enum { MOST_CHARTS = 3, PER_OCTAVE = 8, LEAST_K = -1, MOST_K = 2 }; /* of K in charts */

/* An encoding that some layers have, found to be the same. */
typedef struct {
    const Rope *given, *r; /* the model's; what is drawn: it, or */
    Rope own;              /* the same without weights */
    char *layer;           /* [L] */
    double *theta, amplitude;
    int grows;        /* are they others at the start? */
    double *k, *bias; /* [heads][distances] */
    int heads, *like; /* [heads] the first head with the same K */
} Shown;

typedef struct {
    const RopeShow *w;
    Shown *shown, plain;
    int n, span, n_ctx;
    int n_distances, *distance;
} Show;

static const char *plural(int n)
{
    return n == 1 ? "" : "s";
}

/* Would a head see something else than its neighbour? */
static int heads_differ(const RopeKind *k)
{
    return k->bias || k->part || k->per_head || k->mix || k->turn || k->angles || k->observe ||
           k->update;
}

/* A kind that looks at the hidden state is shown as it is without weights. */
static int blind(const RopeKind *k)
{
    return k->angles || k->observe;
}

static int make_blind(Shown *s, const Rope *r, Err *e)
{
    RopeParams p = r->p;
    p.file = NULL;
    for (int i = 0; i < ROPE_ARGS && r->kind->args[i].name; i++)
        if (strcmp(r->kind->args[i].name, "seed") == 0) p.arg[i] = r->kind->args[i].def;
    s->r = &s->own;
    return rope_new(&s->own, r->kind, &p, r->layout, NULL, e);
}

/* The first head whose K is that of head h, as it has the same keys and nothing of its own. */
static int twin_head(const Rope *r, int h)
{
    const RopeKind *k = r->kind;
    int group = rope_heads(r) / r->p.n_kv_heads;
    for (int i = h / group * group; i < h && !k->bias; i++)
        if (!k->part || k->part(r, i) == k->part(r, h)) return i;
    return h;
}

/* K of all heads; of the first one where they cannot differ. */
static int fill_kernels(const Show *w, Shown *s, Err *e)
{
    int n = w->n_distances, n_own = heads_differ(s->r->kind) ? s->heads : 1;
    size_t row = (size_t)n * sizeof *s->k;
    for (int h = 0; h < n_own; h++) {
        double *k = s->k + (size_t)h * (size_t)n, *bias = s->bias + (size_t)h * (size_t)n;
        s->like[h] = s->like[twin_head(s->r, h)];
        if (twin_head(s->r, h) < h) continue;
        if (rope_kernel(s->r, h, w->distance, n, k, bias, e)) return -1;
        for (s->like[h] = 0; s->like[h] < h; s->like[h]++)
            if (memcmp(k, s->k + s->like[h] * n, row) == 0 &&
                memcmp(bias, s->bias + s->like[h] * n, row) == 0)
                break;
    }
    return 0;
}

static int fill_rates(const Show *w, Shown *s, Err *e)
{
    size_t P = (size_t)s->r->n_pairs;
    double amplitude, *first = xcalloc(P + 1, sizeof *first);
    int rc = rope_rates(s->r, 1, first, &amplitude, e) ||
             rope_rates(s->r, w->span, s->theta, &s->amplitude, e);
    s->grows = s->r->kind->length && memcmp(first, s->theta, P * sizeof *first) != 0;
    free(first);
    return rc ? -1 : 0;
}

static int shown_make(const Show *w, Shown *s, const Rope *r, Err *e)
{
    int L = w->w->m->n_layers;
    *s = (Shown){.given = r, .r = r, .layer = xcalloc((size_t)L + 1, 1)};
    if (blind(r->kind) && make_blind(s, r, e)) return -1;
    s->heads = rope_heads(s->r);
    s->theta = xcalloc((size_t)s->r->n_pairs + 1, sizeof *s->theta);
    s->k = xcalloc((size_t)s->heads * (size_t)w->n_distances, sizeof *s->k);
    s->bias = xcalloc((size_t)s->heads * (size_t)w->n_distances, sizeof *s->bias);
    s->like = xcalloc((size_t)s->heads, sizeof *s->like);
    return fill_rates(w, s, e) || fill_kernels(w, s, e) ? -1 : 0;
}

static void shown_free(Shown *s)
{
    rope_free(&s->own);
    free(s->layer);
    free(s->theta);
    free(s->k);
    free(s->bias);
    free(s->like);
}

static int same_numbers(const Show *w, const Shown *a, const Shown *b)
{
    size_t bytes = (size_t)a->heads * (size_t)w->n_distances * sizeof *a->k;
    return a->r->n_pairs == b->r->n_pairs && a->heads == b->heads &&
           memcmp(a->theta, b->theta, (size_t)a->r->n_pairs * sizeof *a->theta) == 0 &&
           memcmp(a->k, b->k, bytes) == 0 && memcmp(a->bias, b->bias, bytes) == 0;
}

static int same_shown(const Show *w, const Shown *a, const Shown *b)
{
    char x[1024], y[1024];
    rope_text(a->given, x, sizeof x);
    rope_text(b->given, y, sizeof y);
    return strcmp(x, y) == 0 && same_numbers(w, a, b);
}

static int by_size(const void *a, const void *b)
{
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* 0, PER_OCTAVE distances from each power of two to the next up to the span, powers of ten, and the
 * trained context. */
static void fill_distances(Show *w)
{
    int n = 0, *d = xcalloc(PER_OCTAVE * 32 + 16, sizeof *d);
    for (int i = 0; i < PER_OCTAVE * 31; i++) d[n++] = (int)round(exp2(i / (double)PER_OCTAVE));
    for (int tens = 1; tens <= 10000000; tens *= 10) d[n++] = tens;
    d[n++] = w->n_ctx;
    d[n++] = w->span;
    qsort(d, (size_t)n, sizeof *d, by_size);
    w->distance = xcalloc((size_t)n + 1, sizeof *d);
    w->n_distances = 1;
    for (int i = 0; i < n; i++)
        if (d[i] > w->distance[w->n_distances - 1] && d[i] <= w->span)
            w->distance[w->n_distances++] = d[i];
    free(d);
}

/* The context an encoding is for: the trained one, times what it is stretched by. */
static int span_of(const Model *m)
{
    double span = 1;
    for (int i = 0; i < m->n_ropes; i++) {
        const RopeParams *p = &m->rope[i].p;
        double stretch = p->factor > 1 ? p->factor : m->rope[i].kind->length ? 4 : 1;
        span = fmax(span, p->n_ctx_orig * stretch);
    }
    return (int)fmin(span, 1 << 24);
}

static int show_make(Show *w, const RopeShow *asked, Err *e)
{
    const Model *m = asked->m;
    *w = (Show){.w = asked, .span = asked->span ? asked->span : span_of(m)};
    w->n_ctx = m->rope[0].p.n_ctx_orig;
    w->shown = xcalloc((size_t)m->n_ropes, sizeof *w->shown);
    fill_distances(w);
    if (shown_make(w, &w->plain, asked->plain, e)) return -1;
    for (int i = 0; i < m->n_ropes; i++) {
        Shown *s = &w->shown[w->n++];
        int at = 0;
        if (shown_make(w, s, &m->rope[i], e)) return -1;
        while (&w->shown[at] != s && !same_shown(w, &w->shown[at], s)) at++;
        for (int l = 0; l < m->n_layers; l++) w->shown[at].layer[l] |= m->layer[l].rope == i;
        if (&w->shown[at] == s) continue;
        shown_free(s);
        *s = (Shown){.r = NULL};
        w->n--;
    }
    return 0;
}

static void show_free(Show *w)
{
    for (int i = 0; i < w->n; i++) shown_free(&w->shown[i]);
    shown_free(&w->plain);
    free(w->shown);
    free(w->distance);
}

/* The kind that is asked for; without one, the i-th kind that the layers have. NULL at the end. */
static const Rope *explained(const Show *w, int i)
{
    const RopeShow *asked = w->w;
    size_t n = asked->spec ? strcspn(asked->spec, ":") : 0;
    for (int k = 0; k < w->n; k++) {
        const Rope *r = w->shown[k].given;
        int seen = 0;
        if (asked->spec && (strlen(r->kind->name) != n || memcmp(r->kind->name, asked->spec, n)))
            continue;
        for (int before = 0; before < k; before++) seen |= w->shown[before].r->kind == r->kind;
        if (!seen && i-- == 0) return r;
    }
    return NULL;
}

/* ---- in words */

/* "base (default 10000; 1e-09 to 1e+15): meaning" */
static void print_key(const Term *t, const RopeKind *kind, const RopeArg *a)
{
    char s[1024];
    int own = 0;
    for (int i = 0; i < ROPE_ARGS && kind->args[i].name; i++) own |= kind->args[i].name == a->name;
    size_t n = (size_t)snprintf(s, sizeof s, "%s (", a->name);
    if (a->words) {
        const char *w = a->words;
        for (int i = 0; i < a->def && *w; i++) w += strcspn(w, " ") + 1;
        n += (size_t)snprintf(s + n, sizeof s - n, "one of: %s%s%.*s", a->words,
                              isnan(a->def) ? "" : "; default ",
                              isnan(a->def) ? 0 : (int)strcspn(w, " "), w);
    } else if (!isnan(a->lo)) {
        n += (size_t)snprintf(s + n, sizeof s - n, "%s%g to %g",
                              rope_whole(kind, a->name) ? "a whole number, " : "", a->lo, a->hi);
    }
    if (!a->words && !isnan(a->def))
        n += (size_t)snprintf(s + n, sizeof s - n, "; default %g", a->def);
    else if (!own)
        n += (size_t)snprintf(s + n, sizeof s - n, "%s",
                              isnan(a->lo) ? "default: the model file" : "; default: the model's");
    snprintf(s + n, sizeof s - n, "): %s", a->meaning ? a->meaning : "");
    n = strlen(s);
    if (!strchr(".?:", s[n - 1])) snprintf(s + n, sizeof s - n, ".");
    print_paragraph(t, 1, s);
}

/* The paragraphs of a text, which end at a new line. */
static void print_paragraphs(const Term *t, const char *s)
{
    for (size_t n; s && *s; s += n + (s[n] == '\n')) {
        Bytes one = {0};
        n = strcspn(s, "\n");
        bytes_add(&one, s, n);
        if (n) print_paragraph(t, 0, one.s);
        free(one.s);
    }
}

static void print_kind(const Term *t, const Rope *r)
{
    const RopeKind *k = r->kind;
    RopeArg key;
    Bytes said = {0};
    fprintf(t->f, "%s%s%s\n", t->bold, k->name, t->off);
    print_paragraph(t, 0, k->summary ? k->summary : "");
    fprintf(t->f, "\n  %s\n  %s%s%s\n\n", k->formula, t->dim, k->source, t->off);
    print_paragraphs(t, k->detail);
    fprintf(t->f, "\n%sKeys%s  --rope %s:key=value,key=value\n", t->bold, t->off, k->name);
    for (int i = 0; rope_key(k, i, &key); i++) print_key(t, k, &key);
    fprintf(t->f, "\n%sWhat it takes%s\n", t->bold, t->off);
    say_cost(r, &said);
    print_said(t, &said);
}

/* Pairs that turn by x or less over the trained context. */
static int n_within(const Show *w, const Shown *s, double x)
{
    int n = 0;
    for (int j = 0; j < s->r->n_pairs; j++) n += s->theta[j] > 0 && s->theta[j] * w->n_ctx <= x;
    return n;
}

static int n_still(const Shown *s)
{
    int n = 0;
    for (int j = 0; j < s->r->n_pairs; j++) n += !(s->theta[j] > 0);
    return n;
}

static void say_pairs(const Show *w, const Shown *s, Bytes *out)
{
    int P = s->r->n_pairs, still = n_still(s);
    if (still) say(out, "%d of %d pairs do not turn.", still, P);
    if (still < P)
        say(out,
            "Over the trained context of %d tokens %d of the pairs that turn make at most one turn "
            "(x = theta P <= 2 pi), %d of them at most half a turn (x <= pi); of plain RoPE, %d "
            "and %d of %d.",
            w->n_ctx, n_within(w, s, TAU), n_within(w, s, TAU / 2), n_within(w, &w->plain, TAU),
            n_within(w, &w->plain, TAU / 2), w->plain.r->n_pairs);
    if (s->amplitude > 1 || s->amplitude < 1)
        say(out,
            "The amplitude of cos and sin is %.6g, in queries and keys alike: what turns "
            "counts %.6g times in a score.",
            s->amplitude, s->amplitude * s->amplitude);
    if (s->grows)
        say(out, "The frequencies depend on the length: these are the ones at %d tokens.", w->span);
}

/* Does K leave the chart? */
static void say_beyond(const Show *w, const Shown *s, Bytes *out)
{
    double least = 0, most = 0;
    for (int i = 0; i < s->heads * w->n_distances; i++) {
        least = fmin(least, s->k[i] + s->bias[i]);
        most = fmax(most, s->k[i] + s->bias[i]);
    }
    if (least < LEAST_K) say(out, "K goes down to %.6g, below the chart.", least);
    if (most > MOST_K) say(out, "K goes up to %.6g, above the chart.", most);
}

/* Is K what plain RoPE has, or what no encoding has? */
static void say_same(const Show *w, const Shown *s, Bytes *out)
{
    int constant = 1, as_plain = 1, n = w->n_distances;
    for (int i = 0; i < s->heads * n; i++) {
        double k = s->k[i], plain = w->plain.k[i % n];
        if (s->like[i / n] != i / n) continue;
        constant &= !(k < 1 || k > 1 || s->bias[i] < 0 || s->bias[i] > 0);
        as_plain &= !(k < plain || k > plain || s->bias[i] < 0 || s->bias[i] > 0);
    }
    if (as_plain && s->r->kind != &rope_plain)
        say(out,
            "As it is set here this is plain RoPE: the same K at every distance, bit for bit.");
    if (constant)
        say(out, "As it is set here it tells no distance from another: K is 1 everywhere.");
}

/* ---- charts */

enum { FREQUENCY_ROWS = 15, KERNEL_ROWS = 14, TICKS = 24 };

static void add_tick(Tick *tick, int *n, double at, int line, double number)
{
    if (*n == TICKS) return;
    tick[*n] = (Tick){.at = at, .line = line};
    snprintf(tick[(*n)++].label, sizeof tick->label, "%.6g", number);
}

/* Heights in the chart of frequencies: log10 of theta / 2 pi, the inverse of the wavelength; what
 * does not turn lies at the bottom; there may be fewer pairs than n. */
static void heights(const Shown *s, double still, int n, double *y)
{
    for (int j = 0; j < n; j++)
        y[j] = j >= s->r->n_pairs ? (double)NAN
               : s->theta[j] > 0  ? log10(s->theta[j] / TAU)
                                  : still;
}

static void widen(const Shown *s, double *lo, double *hi)
{
    for (int j = 0; j < s->r->n_pairs; j++) {
        if (!(s->theta[j] > 0)) continue;
        *lo = fmin(*lo, log10(s->theta[j] / TAU));
        *hi = fmax(*hi, log10(s->theta[j] / TAU));
    }
}

/* Are the lines of one turn and of half a turn in rows of their own? */
static int half_is_apart(const Chart *c)
{
    return log10(2) * (c->rows - 1) > c->hi - c->lo;
}

static int frequency_ticks(const Show *w, const Chart *c, int still, Tick *y)
{
    int n = 0;
    double one = -log10(w->n_ctx), half = -log10(2.0 * w->n_ctx);
    add_tick(y, &n, one, 1, 0);
    snprintf(y[0].label, sizeof y->label, "P");
    if (half_is_apart(c)) {
        add_tick(y, &n, half, 1, 0);
        snprintf(y[n - 1].label, sizeof y->label, "2 P");
    }
    if (still) {
        add_tick(y, &n, c->lo, 0, 0);
        snprintf(y[n - 1].label, sizeof y->label, "still");
    }
    for (int k = (int)ceil(-c->hi); k <= -c->lo - (still ? 0.4 : 0); k++)
        add_tick(y, &n, -k, 0, pow(10, k));
    return n;
}

static void print_frequencies(const Term *t, const Show *w, const Shown *s)
{
    int P = s->r->n_pairs, nx = 0, still = n_still(s) > 0;
    if (P < w->plain.r->n_pairs) P = w->plain.r->n_pairs;
    Tick x[TICKS], y[TICKS];
    double *v = xcalloc(3 * (size_t)P + 1, sizeof *v);
    Chart c = {.x = v, .y = {v + P, v + 2 * P}, .n = P, .rows = FREQUENCY_ROWS};
    c.lo = -log10(2.0 * w->n_ctx) - 0.2, c.hi = -log10(TAU);
    widen(s, &c.lo, &c.hi);
    widen(&w->plain, &c.lo, &c.hi);
    if (still) c.lo -= 0.6;
    for (int j = 0; j < P; j++) v[j] = j;
    heights(s, c.lo, P, v + P);
    heights(&w->plain, c.lo, P, v + 2 * P);
    int step = P > 128 ? 32 : P > 32 ? 8 : P > 8 ? 4 : 1;
    for (int j = 0; j < P; j += step) add_tick(x, &nx, j, 0, j);
    c.n_yticks = frequency_ticks(w, &c, still, y);
    c.xtick = x, c.ytick = y, c.n_xticks = nx;
    fprintf(t->f, "\n%sFrequency of each pair%s  wavelength in tokens, the fastest at the top\n",
            t->bold, t->off);
    print_chart(t, &c);
    free(v);
    print_note(t,
               "%s: %s, %s: plain RoPE where it is apart. P = %d: below this line a pair makes "
               "less than one turn over the trained context (x = theta P <= 2 pi)%s.",
               t->ascii ? "***" : "The line ⠒⠒", s->r->kind->name, t->ascii ? "' . :" : "dots · .",
               w->n_ctx, half_is_apart(&c) ? "; below 2 P, less than half a turn (x <= pi)" : "");
}

static double near_place(double distance)
{
    return log1p(distance);
}

/* 0, powers of ten, and the trained context where the chart goes beyond it. */
static int distance_ticks(const Show *w, Tick *x)
{
    int n = 0, marked = w->n_ctx >= w->span;
    add_tick(x, &n, 0, 0, 0);
    for (double d = 1; d <= w->span; d *= 10) {
        if (!marked && d >= w->n_ctx) {
            add_tick(x, &n, near_place(w->n_ctx), 1, w->n_ctx);
            marked = 1;
        }
        add_tick(x, &n, near_place(d), 0, d);
    }
    if (!marked) add_tick(x, &n, near_place(w->n_ctx), 1, w->n_ctx);
    add_tick(x, &n, near_place(w->span), 0, w->span);
    return n;
}

/* The sum of k and bias of head h, and the range of the chart widened to it. */
static void fill_curve(const Show *w, const Shown *s, int h, double *y, Chart *c)
{
    size_t at = (size_t)h * (size_t)w->n_distances;
    for (int i = 0; i < w->n_distances; i++) {
        y[i] = s->k[at + (size_t)i] + s->bias[at + (size_t)i];
        c->lo = fmin(c->lo, fmax(y[i], LEAST_K));
        c->hi = fmax(c->hi, fmin(y[i], MOST_K));
    }
}

/* Some distances of the chart in numbers. */
static void print_distances(const Term *t, const Show *w, const Shown *s, int h)
{
    int at[16], n = 0, most = (t->text - 8) / 9, D = w->n_distances;
    for (int i = 0; i < D && n < 16; i++) {
        int d = w->distance[i];
        while (d > 9 && d % 10 == 0) d /= 10;
        if (d <= 1 || i == D - 1 || w->distance[i] == w->n_ctx) at[n++] = i;
    }
    int from = n > most ? n - most : 0;
    fputs("\nD       ", t->f);
    for (int i = from; i < n; i++) fprintf(t->f, "%9d", w->distance[at[i]]);
    for (int row = 0; row < (s->r->kind->bias ? 3 : 2); row++) {
        fprintf(t->f, "\n%-8s", (const char *[]){"K", "plain", "bias"}[row]);
        for (int i = from; i < n; i++) {
            double bias = s->bias[h * D + at[i]];
            double v = (double[]){s->k[h * D + at[i]] + bias, w->plain.k[at[i]], bias}[row];
            print_cell(t->f, 9, fabs(v) < 100 ? 3 : 0, v);
        }
    }
    fputc('\n', t->f);
}

static void print_kernel(const Term *t, const Show *w, const Shown *s, int h)
{
    Tick x[TICKS], y[TICKS];
    char heads[128], all[128], *like = xcalloc((size_t)s->heads + 1, 1);
    int n = w->n_distances, ny = 0;
    double *v = xcalloc(3 * (size_t)n, sizeof *v);
    Chart c = {.x = v, .y = {v + n, v + 2 * n}, .n = n, .rows = KERNEL_ROWS, .lo = 0, .hi = 1};
    for (int i = 0; i < n; i++) v[i] = near_place(w->distance[i]);
    fill_curve(w, s, h, v + n, &c);
    fill_curve(w, &w->plain, 0, v + 2 * n, &c);
    c.lo -= 0.05, c.hi += 0.05;
    add_tick(y, &ny, 0, 1, 0);
    for (double at = LEAST_K; at <= MOST_K; at += 0.5)
        if (at >= c.lo && at <= c.hi) add_tick(y, &ny, at, 0, at);
    c.n_xticks = distance_ticks(w, x);
    c.xtick = x, c.ytick = y, c.n_yticks = ny;
    memset(like, 1, (size_t)s->heads);
    list_runs(like, s->heads, all, sizeof all);
    for (int i = 0; i < s->heads; i++) like[i] = s->like[i] == h;
    list_runs(like, s->heads, heads, sizeof heads);
    fprintf(t->f, "\n%sK over distance%s", t->bold, t->off);
    if (strcmp(heads, all))
        fprintf(t->f, "  head%s %s of %d", strpbrk(heads, " ") ? "s" : "", heads, s->heads);
    fputc('\n', t->f);
    print_chart(t, &c);
    print_distances(t, w, s, h);
    free(v);
    free(like);
}

static void print_reading_note(const Term *t)
{
    print_note(t, "K(D): the logit of a query with a key D tokens before it, where the two would "
                  "have a logit of 1 without any encoding: both are 1 in the first value of every "
                  "pair and 0 in the second. Plain RoPE has the mean of cos(theta D) over its "
                  "pairs. An upright line stands at the trained context.");
}

/* The first head, and the last of those that are like no other before them. */
static void print_shown(const Term *t, const Show *w, const Shown *s)
{
    char layers[256];
    Bytes said = {0};
    int last = 0;
    list_runs(s->layer, w->w->m->n_layers, layers, sizeof layers);
    if (w->n > 1)
        fprintf(t->f, "\n%s-- %s in layer%s %s%s\n", t->bold, s->r->kind->name,
                strpbrk(layers, " ") ? "s" : "", layers, t->off);
    if (s->r->n_pairs) print_frequencies(t, w, s);
    for (int h = 0; h < s->heads; h++)
        if (s->like[h] == h) last = h;
    print_kernel(t, w, s, 0);
    if (last > 0) print_kernel(t, w, s, last);
    if (s == w->shown) print_reading_note(t);
    fputc('\n', t->f);
    if (s->r->n_pairs) say_pairs(w, s, &said);
    if (blind(s->r->kind))
        say(&said, "This kind looks at the hidden state of every token; there is none here, and "
                   "it is shown as it is without weights.");
    say_beyond(w, s, &said);
    say_same(w, s, &said);
    print_said(t, &said);
}

static void print_layers(const Term *t, const Show *w)
{
    char layers[256], text[1024];
    fprintf(t->f, "\n%sShown here%s\n", t->bold, t->off);
    for (int i = 0; i < w->n && i < MOST_CHARTS; i++) {
        Bytes line = {0};
        rope_text(w->shown[i].given, text, sizeof text);
        list_runs(w->shown[i].layer, w->w->m->n_layers, layers, sizeof layers);
        bytes_add(&line, text, strlen(text));
        if (w->n > 1 || w->w->model) {
            bytes_add(&line, " in layers ", strpbrk(layers, " ") ? 11 : 9);
            if (!strpbrk(layers, " ")) bytes_add(&line, " ", 1);
            bytes_add(&line, layers, strlen(layers));
        }
        print_paragraph(t, 1, line.s);
        free(line.s);
    }
    const Rope *plain = w->plain.r;
    char shape[512];
    snprintf(shape, sizeof shape,
             "%s%s%d head%s of %d values, trained context %d; against plain RoPE of base %g, %d "
             "values rotated",
             w->w->model ? w->w->model : "", w->w->model ? ": " : "", plain->p.n_heads,
             plural(plain->p.n_heads), plain->p.head_dim, w->n_ctx, plain->p.base,
             2 * plain->n_pairs);
    print_paragraph(t, 1, shape);
}

int rope_show(const RopeShow *asked, FILE *f, const Screen *s, Err *e)
{
    Show w;
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    int rc = show_make(&w, asked, e);
    for (int i = 0; !rc && explained(&w, i); i++) {
        if (i) fputc('\n', f);
        print_kind(&t, explained(&w, i));
    }
    if (!rc) print_layers(&t, &w);
    for (int i = 0; !rc && i < w.n && i < MOST_CHARTS; i++) print_shown(&t, &w, &w.shown[i]);
    if (!rc && w.n > MOST_CHARTS)
        print_note(&t,
                   "There are %d encodings that differ from layer to layer: the first %d are "
                   "drawn, --json has all.",
                   w.n, MOST_CHARTS);
    show_free(&w);
    restore_numbers(old);
    return rc;
}

/* ---- the list */

/* Name and summary; the source behind it, or below where there is no room. */
static void print_entry(const Term *t, const RopeKind *k)
{
    enum { NAME = 17 };
    const char *summary = k->summary ? k->summary : "";
    int end = NAME + (int)strlen(summary) + 2 + (int)strlen(k->source);
    fprintf(t->f, "  %-14s %s", k->name, summary);
    if (end > t->text)
        fprintf(t->f, "\n%*s", NAME, "");
    else
        fputs("  ", t->f);
    fprintf(t->f, "%s%s%s\n", t->dim, k->source, t->off);
}

void rope_list(FILE *f, const Screen *s)
{
    locale_t old = c_numbers();
    Term t = term_of(f, s);
    for (int g = 0; g < N_GROUPS; g++) {
        int n = 0;
        for (int i = 0; rope_at(i); i++) {
            const RopeKind *k = rope_at(i);
            if (group_of(k) != g) continue;
            if (n++ == 0) fprintf(f, "%s%s%s\n", t.bold, groups[g].title, t.off);
            print_entry(&t, k);
        }
        if (n) fputc('\n', f);
    }
    fprintf(f, "%sExamples%s\n", t.bold, t.off);
    fputs("  ropescope rope yarn:factor=4              one of them explained, and drawn\n"
          "  ropescope rope -m model.gguf              what a model has\n"
          "  ropescope rope none -m model.gguf --rope-layers 4-8\n"
          "  ropescope generate model.gguf --rope linear:factor=2 -p 'Once upon a time'\n",
          f);
    restore_numbers(old);
}

/* ---- JSON */

/* "key":["...", ...] of sentences, which are freed. */
static void json_sentences(FILE *f, const char *key, Bytes *said)
{
    fprintf(f, ",\"%s\":[", key);
    for (size_t i = 0; i < said->n; i += strlen(said->s + i) + 1) {
        if (i) fputc(',', f);
        json_str(f, said->s + i, strlen(said->s + i));
    }
    fputc(']', f);
    free(said->s);
    *said = (Bytes){0};
}

static void json_number(FILE *f, const char *key, double v)
{
    fprintf(f, ",\"%s\":", key);
    json_num(f, v);
}

static void json_keys(FILE *f, const RopeKind *k)
{
    RopeArg a;
    fputs(",\"keys\":[", f);
    for (int i = 0; rope_key(k, i, &a); i++) {
        fprintf(f, "%s{\"name\":\"%s\"", i ? "," : "", a.name);
        json_number(f, "default", a.def);
        json_number(f, "least", a.words ? (double)NAN : a.lo);
        json_number(f, "most", a.words ? (double)NAN : a.hi);
        fprintf(f, ",\"whole\":%s", rope_whole(k, a.name) ? "true" : "false");
        json_text(f, "words", a.words);
        json_text(f, "meaning", a.meaning);
        fputc('}', f);
    }
    fputc(']', f);
}

/* The members of an object that is open; the first one has no comma before it. */
static void json_kind(FILE *f, const RopeKind *k)
{
    Bytes said = {0};
    fprintf(f, "\"name\":\"%s\"", k->name);
    json_text(f, "group", groups[group_of(k)].name);
    json_text(f, "summary", k->summary);
    json_text(f, "formula", k->formula);
    json_text(f, "source", k->source);
    json_text(f, "detail", k->detail);
    json_keys(f, k);
    say_needs(k, &said);
    json_sentences(f, "needs", &said);
    say_changes(k, &said);
    json_sentences(f, "changes", &said);
    json_text(f, "cached_keys", cached_keys(k));
}

void rope_list_json(FILE *f)
{
    locale_t old = c_numbers();
    fprintf(f, "{\"schema\":\"ropescope.ropes/1\",\"version\":\"%s\",\n\"ropes\":[",
            ROPESCOPE_VERSION);
    for (int i = 0; rope_at(i); i++) {
        fputs(i ? ",\n{" : "\n{", f);
        json_kind(f, rope_at(i));
        fputc('}', f);
    }
    fputs("]}\n", f);
    restore_numbers(old);
}

static void json_curves(FILE *f, const Show *w, const Shown *s)
{
    fputs(",\n\"kernels\":[", f);
    for (int h = 0; h < s->heads; h++) {
        size_t at = (size_t)h * (size_t)w->n_distances;
        if (s->like[h] != h) continue;
        fprintf(f, "%s{\"heads\":[%d", h ? ",\n" : "", h);
        for (int i = h + 1; i < s->heads; i++)
            if (s->like[i] == h) fprintf(f, ",%d", i);
        fputc(']', f);
        json_column(f, "k", s->k + at, sizeof *s->k, w->n_distances);
        json_column(f, "bias", s->bias + at, sizeof *s->bias, w->n_distances);
        fputc('}', f);
    }
    fputc(']', f);
}

static void json_shown(FILE *f, const Show *w, const Shown *s)
{
    char text[1024];
    int P = s->r->n_pairs, n = 0;
    double *wave = xcalloc((size_t)P + 1, sizeof *wave);
    Bytes said = {0};
    for (int j = 0; j < P; j++) wave[j] = TAU / s->theta[j];
    rope_text(s->given, text, sizeof text);
    fputs("{\"layers\":[", f);
    for (int l = 0; l < w->w->m->n_layers; l++)
        if (s->layer[l]) fprintf(f, "%s%d", n++ ? "," : "", l);
    fputc(']', f);
    json_text(f, "kind", s->r->kind->name);
    json_text(f, "text", text);
    json_number(f, "amplitude", s->amplitude);
    json_number(f, "pairs", P);
    json_number(f, "one_turn_or_less", n_within(w, s, TAU));
    json_number(f, "half_a_turn_or_less", n_within(w, s, TAU / 2));
    json_column(f, "theta", s->theta, sizeof(double), P);
    json_column(f, "wavelength", wave, sizeof(double), P);
    json_curves(f, w, s);
    say_cost(s->given, &said);
    json_sentences(f, "cost", &said);
    fprintf(f, ",\"without_weights\":%s}", blind(s->r->kind) ? "true" : "false");
    free(wave);
}

int rope_show_json(const RopeShow *asked, FILE *f, Err *e)
{
    Show w;
    locale_t old = c_numbers();
    int rc = show_make(&w, asked, e);
    if (!rc) {
        fprintf(f, "{\"schema\":\"ropescope.rope/1\",\"version\":\"%s\"", ROPESCOPE_VERSION);
        json_text(f, "model", asked->model);
        json_number(f, "head_dim", w.plain.r->p.head_dim);
        json_number(f, "heads", w.plain.r->p.n_heads);
        json_number(f, "n_ctx", w.n_ctx);
        json_text(
            f, "convention",
            "k + bias: the logit of a query with a key `distance` tokens before it where both "
            "are 1 in the first value of every pair and 0 in the second, over the logit they "
            "have without any encoding; theta: angle per token at the largest distance");
        fprintf(f, ",\n\"distance\":[");
        for (int i = 0; i < w.n_distances; i++) fprintf(f, "%s%d", i ? "," : "", w.distance[i]);
        fputs("],\n\"kinds\":[", f);
        for (int i = 0; explained(&w, i); i++) {
            fputs(i ? ",\n{" : "{", f);
            json_kind(f, explained(&w, i)->kind);
            fputc('}', f);
        }
        fputs("],\n\"encodings\":[", f);
        for (int i = 0; i < w.n; i++) {
            if (i) fputs(",\n", f);
            json_shown(f, &w, &w.shown[i]);
        }
        fputs("],\n\"plain\":", f);
        json_shown(f, &w, &w.plain);
        fputs("}\n", f);
    }
    show_free(&w);
    restore_numbers(old);
    return rc;
}
