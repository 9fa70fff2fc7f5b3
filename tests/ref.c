/* A naive forward pass in double precision, written from the formulas and nothing else.
 *
 * It reads the container through gguf_*, and that is all it shares with the program: its own
 * decoding of every tensor type, its own norms, rotation, attention and feed-forward; no cache,
 * no batches, no threads, no tables. Slow on purpose. */
#include "../model.h"

#include "gguf_builder.h"
#include "ref.h"

#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- decoding, in double */

double ref_f16(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY)
               : e     ? ldexp(1024 + m, e - 25)
                       : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

static double f16_at(const uint8_t *p)
{
    return ref_f16((uint16_t)(p[0] | p[1] << 8));
}

static double f32_from(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return (double)f;
}

static uint32_t u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int nibble(int byte, int high)
{
    return high ? byte >> 4 & 15 : byte & 15;
}

static const int iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

/* Element i of a block of 32 at b. */
static double small_block(int type, const uint8_t *b, int i)
{
    int hi = i >= 16, j = i % 16;
    double d = f16_at(b);
    switch (type) {
    case T_Q4_0:
        return d * (nibble(b[2 + j], hi) - 8);
    case T_IQ4_NL:
        return d * iq4_table[nibble(b[2 + j], hi)];
    case T_Q4_1:
        return d * nibble(b[4 + j], hi) + f16_at(b + 2);
    case T_Q5_0:
        return d * ((nibble(b[6 + j], hi) | (int)(u32_at(b + 2) >> i & 1) << 4) - 16);
    case T_Q5_1:
        return d * (nibble(b[8 + j], hi) | (int)(u32_at(b + 4) >> i & 1) << 4) + f16_at(b + 2);
    default:
        return d * (int8_t)b[2 + i]; /* Q8_0 */
    }
}

/* Six-bit scale and minimum of sub-block g of Q4_K and Q5_K. */
static void six_bits(const uint8_t *s, int g, int *sc, int *mn)
{
    if (g < 4) {
        *sc = s[g] & 63;
        *mn = s[g + 4] & 63;
        return;
    }
    *sc = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
    *mn = s[g + 4] >> 4 | s[g] >> 6 << 4;
}

/* Element i of Q2_K and Q3_K: their two low bits. */
static int two_bits(const uint8_t *qs, int i)
{
    return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}

static double q3_element(const uint8_t *b, int i)
{
    const uint8_t *hmask = b, *qs = b + 32, *sc = b + 96;
    int g = i / 16, lo = nibble(sc[g % 8], g / 8), hi = sc[8 + g % 4] >> 2 * (g / 4) & 3;
    int bit = hmask[i % 32] >> (i / 32) & 1;
    return f16_at(b + 108) * ((lo | hi << 4) - 32) * (two_bits(qs, i) - (bit ? 0 : 4));
}

static double q6_element(const uint8_t *b, int i)
{
    int h = i / 128, k = i % 128 / 32, l = i % 32;
    int lo = nibble(b[64 * h + 32 * (k % 2) + l], k / 2);
    int hi = b[128 + 32 * h + l] >> 2 * k & 3;
    return f16_at(b + 208) * (int8_t)b[192 + i / 16] * ((lo | hi << 4) - 32);
}

static double iq4_xs_element(const uint8_t *b, int i)
{
    int g = i / 32, l = i % 32, high = b[2] | b[3] << 8;
    int s = nibble(b[4 + g / 2], g % 2) | (high >> 2 * g & 3) << 4;
    return f16_at(b) * (s - 32) * iq4_table[nibble(b[8 + 16 * g + l % 16], l / 16)];
}

/* Element i of a block of 256 at b. */
static double big_block(int type, const uint8_t *b, int i)
{
    int sc, mn, g = i / 32;
    switch (type) {
    case T_Q2_K:
        return f16_at(b + 80) * (b[i / 16] & 15) * two_bits(b + 16, i) -
               f16_at(b + 82) * (b[i / 16] >> 4);
    case T_Q3_K:
        return q3_element(b, i);
    case T_Q6_K:
        return q6_element(b, i);
    case T_IQ4_XS:
        return iq4_xs_element(b, i);
    case T_Q4_K:
        six_bits(b + 4, g, &sc, &mn);
        return f16_at(b) * sc * nibble(b[16 + 32 * (g / 2) + i % 32], g % 2) - f16_at(b + 2) * mn;
    default: /* Q5_K */
        six_bits(b + 4, g, &sc, &mn);
        return f16_at(b) * sc *
                   (nibble(b[48 + 32 * (g / 2) + i % 32], g % 2) | (b[16 + i % 32] >> g & 1) << 4) -
               f16_at(b + 2) * mn;
    }
}

/* Where a random block keeps its scale and its minimum, and the ratio that centres it on zero. */
typedef struct {
    int type, block, bytes, d_at, m_at;
    double m_ratio;
} Layout;

static const Layout layouts[] = {
    {T_F32, 1, 4, -1, -1, 0},       {T_F16, 1, 2, -1, -1, 0},      {T_BF16, 1, 2, -1, -1, 0},
    {T_Q4_0, 32, 18, 0, -1, 0},     {T_Q4_1, 32, 20, 0, 2, -7.5},  {T_Q5_0, 32, 22, 0, -1, 0},
    {T_Q5_1, 32, 24, 0, 2, -15.5},  {T_Q8_0, 32, 34, 0, -1, 0},    {T_Q2_K, 256, 84, 80, 82, 1.5},
    {T_Q3_K, 256, 110, 108, -1, 0}, {T_Q4_K, 256, 144, 0, 2, 7.5}, {T_Q5_K, 256, 176, 0, 2, 15.5},
    {T_Q6_K, 256, 210, 208, -1, 0}, {T_IQ4_NL, 32, 18, 0, -1, 0},  {T_IQ4_XS, 256, 136, 0, -1, 0},
};

static const Layout *layout_of(int type)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type) return &layouts[i];
    return NULL;
}

int ref_dequant(int type, const uint8_t *row, int n, double *out)
{
    const Layout *l = layout_of(type);
    if (!l || n % l->block) return -1;
    for (int i = 0; i < n; i++) {
        const uint8_t *b = row + (size_t)(i / l->block) * (size_t)l->bytes;
        if (type == T_F32)
            out[i] = f32_from(u32_at(b));
        else if (type == T_F16)
            out[i] = f16_at(b);
        else if (type == T_BF16)
            out[i] = f32_from((uint32_t)(b[0] | b[1] << 8) << 16);
        else if (l->block == 32)
            out[i] = small_block(type, b, i % 32);
        else
            out[i] = big_block(type, b, i % 256);
    }
    return 0;
}

/* ---------------------------------------------------------------- the model, in double */

typedef struct {
    const Gguf *g;
    const RefOptions *o;
    const char *arch;
    int n_layers, n_embd, n_vocab, head_dim, n_rot, half;
    double eps, base, factor, scale;
    double *divisors; /* [n_rot / 2] or NULL */
} Ref;

static double *doubles(size_t n)
{
    return xcalloc(n ? n : 1, sizeof(double));
}

/* A whole tensor as doubles, or NULL if it is absent. */
static double *whole(const Ref *r, const char *name, const Tensor **out)
{
    const Tensor *t = gguf_tensor(r->g, name);
    if (out) *out = t;
    if (!t) return NULL;
    size_t rows = (size_t)(t->ne[1] * t->ne[2] * t->ne[3]), n = (size_t)t->ne[0];
    double *w = doubles(rows * n);
    for (size_t i = 0; i < rows; i++)
        MUST(ref_dequant(t->type, t->data + i * t->row_bytes, (int)n, w + i * n) == 0);
    return w;
}

static double *layer_tensor(const Ref *r, int l, const char *name, const Tensor **out)
{
    char full[160];
    snprintf(full, sizeof full, "blk.%d.%s", l, name);
    return whole(r, full, out);
}

/* What 8-bit activations make of a row: per block of 32, max / 127 times an integer. */
static void through_int8(double *x, int n)
{
    for (int b = 0; b < n; b += 32) {
        double max = 0;
        for (int i = b; i < b + 32; i++) max = fmax(max, fabs(x[i]));
        for (int i = b; i < b + 32 && max > 0; i++) x[i] = rint(x[i] * 127 / max) * (max / 127);
    }
}

/* y[i] += W x[i] (+ bias) for n rows; W is the tensor `name`.weight of layer l (-1: global). */
static void add_linear(const Ref *r, int l, const char *name, const double *x, int n, double *y,
                       int out, int in)
{
    char full[96];
    const Tensor *t;
    snprintf(full, sizeof full, "%s.weight", name);
    double *w = l < 0 ? whole(r, full, &t) : layer_tensor(r, l, full, &t);
    snprintf(full, sizeof full, "%s.bias", name);
    double *bias = l < 0 ? NULL : layer_tensor(r, l, full, NULL);
    double *row = doubles((size_t)in);
    MUST(w);
    for (int i = 0; i < n; i++) {
        memcpy(row, x + (size_t)i * (size_t)in, (size_t)in * sizeof *row);
        if (r->o->int8 && layout_of(t->type)->block > 1) through_int8(row, in);
        for (int o = 0; o < out; o++) {
            double s = bias ? bias[o] : 0;
            for (int c = 0; c < in; c++) s += w[(size_t)o * (size_t)in + (size_t)c] * row[c];
            y[(size_t)i * (size_t)out + (size_t)o] += s;
        }
    }
    free(w);
    free(bias);
    free(row);
}

/* y = x / sqrt(mean x^2 + eps) * w, for n rows of E. */
static void rms_norm(const Ref *r, int l, const char *name, const double *x, int n, double *y)
{
    double *w = l < 0 ? whole(r, name, NULL) : layer_tensor(r, l, name, NULL);
    size_t e = (size_t)r->n_embd;
    MUST(w);
    for (size_t i = 0; i < (size_t)n; i++) {
        double ss = 0;
        for (size_t c = 0; c < e; c++) ss += x[i * e + c] * x[i * e + c];
        ss = 1 / sqrt(ss / (double)e + r->eps);
        for (size_t c = 0; c < e; c++) y[i * e + c] = x[i * e + c] * ss * w[c];
    }
    free(w);
}

/* Turns n_heads heads of one token at position pos. */
static void rotate(const Ref *r, double *x, int n_heads, int pos)
{
    for (int h = 0; h < n_heads; h++) {
        double *v = x + (size_t)h * (size_t)r->head_dim;
        for (int j = 0; j < r->n_rot / 2; j++) {
            double freq = pow(r->base, -2.0 * j / r->n_rot) / r->factor;
            double angle = pos * freq / (r->divisors ? r->divisors[j] : 1);
            int a = r->half ? j : 2 * j, b = r->half ? j + r->n_rot / 2 : 2 * j + 1;
            double va = v[a], vb = v[b];
            if (r->o->flip) angle = -angle;
            if (j >= r->n_rot / 2 - r->o->n_still) angle = 0;
            v[a] = va * cos(angle) - vb * sin(angle);
            v[b] = va * sin(angle) + vb * cos(angle);
        }
    }
}

/* Is value c of this head left out of the logits? */
static int left_out(const Ref *r, int l, int h, int c)
{
    const RefOptions *o = r->o;
    int pair = r->half ? c % (r->n_rot / 2) : c / 2;
    return o->drop && c < r->n_rot && l == o->drop_layer && h == o->drop_head &&
           pair == o->drop_pair;
}

/* Head output for one query: softmax over keys t0 .. pos. */
static void attend(const Ref *r, int l, int h, const double *q, const double *k, const double *v,
                   size_t stride, int t0, int pos, double *out)
{
    double *s = doubles((size_t)pos + 1), max = -(double)INFINITY, sum = 0;
    for (int t = t0; t <= pos; t++) {
        RefPair pair = {l, h, pos, t, q, k + (size_t)t * stride};
        for (int c = 0; c < r->head_dim; c++)
            if (!left_out(r, l, h, c)) s[t] += q[c] * pair.k[c];
        if (r->o->score) s[t] = r->o->score(r->o->ctx, &pair);
        s[t] *= r->scale;
        max = fmax(max, s[t]);
    }
    for (int t = t0; t <= pos; t++) sum += s[t] = exp(s[t] - max);
    for (int t = t0; t <= pos; t++)
        for (int c = 0; c < r->head_dim; c++)
            out[c] += s[t] / sum * v[(size_t)t * stride + (size_t)c];
    free(s);
}

/* One int of layer l: a scalar, or an array with one entry per layer. */
static int per_layer(const Ref *r, const char *key, int l, int absent)
{
    char full[96];
    Err e;
    int *v = xcalloc((size_t)r->n_layers, sizeof *v);
    snprintf(full, sizeof full, "%s.%s", r->arch, key);
    int got = gguf_per_layer(r->g, full, 0, 1 << 30, v, r->n_layers, &e);
    int x = got == 1 ? v[l] : absent;
    free(v);
    return x;
}

static void attention(const Ref *r, int l, const double *xn, int n, double *x)
{
    int heads = per_layer(r, "attention.head_count", l, 0);
    int kv = per_layer(r, "attention.head_count_kv", l, heads);
    int window = per_layer(r, "attention.sliding_window", l, 0), d = r->head_dim;
    size_t qs = (size_t)heads * (size_t)d, ks = (size_t)kv * (size_t)d;
    double *q = doubles((size_t)n * qs), *k = doubles((size_t)n * ks);
    double *v = doubles((size_t)n * ks), *out = doubles((size_t)n * qs);
    add_linear(r, l, "attn_q", xn, n, q, heads * d, r->n_embd);
    add_linear(r, l, "attn_k", xn, n, k, kv * d, r->n_embd);
    add_linear(r, l, "attn_v", xn, n, v, kv * d, r->n_embd);
    if (r->o->see) r->o->see(r->o->ctx, l, xn, n);
    for (int i = 0; i < n && !r->o->score; i++) {
        rotate(r, q + (size_t)i * qs, heads, i);
        rotate(r, k + (size_t)i * ks, kv, i);
    }
    for (int i = 0; i < n; i++)
        for (int h = 0; h < heads; h++) {
            size_t at = (size_t)(h / (heads / kv)) * (size_t)d;
            size_t to = (size_t)i * qs + (size_t)h * (size_t)d;
            attend(r, l, h, q + to, k + at, v + at, ks, window && i >= window ? i - window + 1 : 0,
                   i, out + to);
        }
    add_linear(r, l, "attn_output", out, n, x, r->n_embd, heads * d);
    free(q);
    free(k);
    free(v);
    free(out);
}

static void feed_forward(const Ref *r, int l, const double *xn, int n, double *x)
{
    int f = per_layer(r, "feed_forward_length", l, 0);
    double *gate = doubles((size_t)n * (size_t)f), *up = doubles((size_t)n * (size_t)f);
    add_linear(r, l, "ffn_gate", xn, n, gate, f, r->n_embd);
    add_linear(r, l, "ffn_up", xn, n, up, f, r->n_embd);
    for (size_t i = 0; i < (size_t)n * (size_t)f; i++) up[i] *= gate[i] / (1 + exp(-gate[i]));
    add_linear(r, l, "ffn_down", up, n, x, r->n_embd, f);
    free(gate);
    free(up);
}

/* ---------------------------------------------------------------- keys */

static double number(const Ref *r, const char *key, double absent)
{
    char full[96];
    Err e;
    int64_t i = 0;
    double v = absent;
    snprintf(full, sizeof full, "%s.%s", r->arch, key);
    if (gguf_find(r->g, full) && gguf_float(r->g, full, -1e30, 1e30, &v, &e) < 0 &&
        gguf_int(r->g, full, 0, INT32_MAX, &i, &e) == 1)
        v = (double)i;
    return v;
}

static int ref_open(Ref *r, const Gguf *g, const RefOptions *o)
{
    static const char *adjacent[] = {"llama", "smollm3", "granite", "olmo", "mistral3", NULL};
    Err e;
    Str arch;
    static char name[64];
    *r = (Ref){.g = g, .o = o, .half = 1};
    if (gguf_str(g, "general.architecture", &arch, &e) != 1) return -1;
    snprintf(name, sizeof name, "%.*s", (int)arch.n, arch.s);
    r->arch = name;
    for (int i = 0; adjacent[i]; i++)
        if (!strcmp(name, adjacent[i])) r->half = 0;
    const Tensor *embd = gguf_tensor(g, "token_embd.weight");
    if (!embd) return -1;
    r->n_embd = (int)embd->ne[0];
    r->n_vocab = (int)embd->ne[1];
    r->n_layers = (int)number(r, "block_count", 0);
    r->head_dim = r->n_embd / per_layer(r, "attention.head_count", 0, 1);
    r->head_dim = (int)number(r, "attention.key_length", r->head_dim);
    r->n_rot = (int)number(r, "rope.dimension_count", r->head_dim);
    r->eps = number(r, "attention.layer_norm_rms_epsilon", 1e-5);
    r->base = number(r, "rope.freq_base", 10000);
    r->factor = number(r, "rope.scaling.factor", number(r, "rope.scale_linear", 1));
    r->scale = number(r, "attention.scale", 1 / sqrt(r->head_dim));
    r->divisors = whole(r, "rope_freqs.weight", NULL);
    return 0;
}

int ref_forward_gguf(const Gguf *g, const int *ids, int n, double *logits, const RefOptions *o)
{
    static const RefOptions plain = {0};
    Ref r;
    if (ref_open(&r, g, o ? o : &plain) < 0) return -1;
    size_t e = (size_t)r.n_embd, all = (size_t)n * e;
    double *x = doubles(all), *xn = doubles(all), *embd = whole(&r, "token_embd.weight", NULL);
    for (int i = 0; i < n; i++) memcpy(x + (size_t)i * e, embd + (size_t)ids[i] * e, e * sizeof *x);
    for (int l = 0; l < r.n_layers; l++) {
        rms_norm(&r, l, "attn_norm.weight", x, n, xn);
        attention(&r, l, xn, n, x);
        rms_norm(&r, l, "ffn_norm.weight", x, n, xn);
        feed_forward(&r, l, xn, n, x);
    }
    rms_norm(&r, -1, "output_norm.weight", x, n, xn);
    memset(logits, 0, (size_t)n * (size_t)r.n_vocab * sizeof *logits);
    add_linear(&r, -1, gguf_tensor(g, "output.weight") ? "output" : "token_embd", xn, n, logits,
               r.n_vocab, r.n_embd);
    free(x);
    free(xn);
    free(embd);
    free(r.divisors);
    return 0;
}

int ref_forward(const char *path, const int *ids, int n, double *logits, const RefOptions *o)
{
    Gguf g;
    Err e;
    if (gguf_open(&g, path, &e) < 0) return -1;
    int rc = ref_forward_gguf(&g, ids, n, logits, o);
    gguf_close(&g);
    return rc;
}

/* ---------------------------------------------------------------- random tiny models */

static uint64_t next_random(uint64_t *s) /* splitmix64 */
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double uniform(uint64_t *s) /* [-1, 1), few bits: exact in a float */
{
    return (double)(next_random(s) >> 48) * 0x1p-15 - 1;
}

/* Nearest binary16 (ties to even) of a value below 65504. */
static uint16_t to_f16(double v)
{
    uint16_t sign = v < 0 ? 0x8000 : 0;
    int e;
    double a = fabs(v);
    if (a < 0x1p-14) return (uint16_t)(sign | (int)rint(a * 0x1p24));
    frexp(a, &e);
    return (uint16_t)(sign + ((e + 13) << 10) + (int)rint(ldexp(a, 11 - e)));
}

/* One row of n weights of about rms `size`, from the generator s. */
static void random_row(uint8_t *row, int type, int n, double size, uint64_t *s)
{
    const Layout *l = layout_of(type);
    double probe[256], ss = 0;
    for (int b = 0; b < n / l->block; b++, row += l->bytes) {
        float f = (float)(uniform(s) * size * 1.7320508); /* uniform: rms is max / sqrt 3 */
        uint32_t u;
        memcpy(&u, &f, 4);
        uint16_t h = type == T_F16 ? to_f16((double)f) : (uint16_t)(u >> 16);
        for (int i = 0; i < l->bytes; i++) row[i] = (uint8_t)(next_random(s) >> 40);
        if (type == T_F32)
            for (int i = 0; i < 4; i++) row[i] = (uint8_t)(u >> 8 * i);
        if (l->block == 1 && type != T_F32) row[0] = (uint8_t)h, row[1] = (uint8_t)(h >> 8);
        if (l->block == 1) continue;
        for (int pass = 0; pass < 2; pass++) { /* once with d = 1 to learn the block's rms */
            double d = pass ? (1 + 0.25 * uniform(s)) * size / sqrt(ss / l->block + 1e-9) : 1;
            uint16_t hd = to_f16(d), hm = to_f16(ref_f16(hd) * l->m_ratio);
            row[l->d_at] = (uint8_t)hd, row[l->d_at + 1] = (uint8_t)(hd >> 8);
            if (l->m_at >= 0) row[l->m_at] = (uint8_t)hm, row[l->m_at + 1] = (uint8_t)(hm >> 8);
            ref_dequant(type, row, l->block, probe);
            for (int i = 0; !pass && i < l->block; i++) ss += probe[i] * probe[i];
        }
    }
}

/* Row of the other rotary layout that holds what row r of ours holds. */
static int swapped_row(const TinyModel *t, int r)
{
    int half = t->n_rot ? t->n_rot / 2 : t->head_dim / 2, c = r % t->head_dim;
    if (c >= 2 * half) return r;
    return r - c + (c < half ? 2 * c : 2 * (c - half) + 1);
}

/* Rows are made in the order of the adjacent layout; `swap` writes them half-split. */
static void add_matrix(GgufBuilder *b, const TinyModel *t, const char *name, int type, int rows,
                       int n, int rotary, uint64_t *s)
{
    const Layout *l = layout_of(type);
    size_t bytes = (size_t)(n / l->block) * (size_t)l->bytes;
    uint8_t *made = xcalloc((size_t)rows, bytes), *data = xcalloc((size_t)rows, bytes);
    for (int i = 0; i < rows; i++) random_row(made + (size_t)i * bytes, type, n, 1 / sqrt(n), s);
    for (int i = 0; i < rows; i++) {
        int from = rotary && t->swap ? swapped_row(t, i) : i;
        memcpy(data + (size_t)i * bytes, made + (size_t)from * bytes, bytes);
    }
    gb_tensor(b, name, type, 2, (int64_t[]){n, rows}, data, (size_t)rows * bytes);
    free(made);
    free(data);
}

static void add_vector(GgufBuilder *b, const TinyModel *t, const char *name, int n, double mean,
                       double spread, int rotary, uint64_t *s)
{
    float *made = xcalloc((size_t)n, sizeof *made), *data = xcalloc((size_t)n, sizeof *data);
    for (int i = 0; i < n; i++) made[i] = (float)(mean + spread * uniform(s));
    for (int i = 0; i < n; i++) data[i] = made[rotary && t->swap ? swapped_row(t, i) : i];
    gb_tensor(b, name, T_F32, 1, (int64_t[]){n}, data, (size_t)n * sizeof *data);
    free(made);
    free(data);
}

static void add_layer(GgufBuilder *b, const TinyModel *t, int l, uint64_t *s)
{
    int q = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim, e = t->n_embd, f = t->n_ff;
    const struct {
        const char *name;
        int rows, n, rotary, bias;
    } parts[] = {{"attn_q", q, e, 1, 1},      {"attn_k", kv, e, 1, 1},  {"attn_v", kv, e, 0, 1},
                 {"attn_output", e, q, 0, 1}, {"ffn_gate", f, e, 0, 0}, {"ffn_up", f, e, 0, 0},
                 {"ffn_down", e, f, 0, 0}};
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
    add_vector(b, t, name, e, 1, 0.5, 0, s);
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
    add_vector(b, t, name, e, 1, 0.5, 0, s);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", l, parts[i].name);
        add_matrix(b, t, name, t->type, parts[i].rows, parts[i].n, parts[i].rotary, s);
        snprintf(name, sizeof name, "blk.%d.%s.bias", l, parts[i].name);
        if (t->biases && parts[i].bias)
            add_vector(b, t, name, parts[i].rows, 0, 0.5, parts[i].rotary, s);
    }
}

static void arch_u32(GgufBuilder *b, const char *arch, const char *key, int v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    if (v) gb_key_u32(b, full, (uint32_t)v);
}

static void arch_f32(GgufBuilder *b, const char *arch, const char *key, double v)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    if (v > 0) gb_key_f32(b, full, (float)v);
}

/* A vocabulary without merges: 3 control tokens, the bytes as <0xXX>, then made-up pieces. */
static void add_vocab(GgufBuilder *b, int n)
{
    static const char *control[] = {"<unk>", "<s>", "</s>"};
    Str *s = xcalloc((size_t)n, sizeof *s);
    char *text = xcalloc((size_t)n, 16);
    int *kind = xcalloc((size_t)n, sizeof *kind);
    float *score = xcalloc((size_t)n, sizeof *score);
    for (int i = 0; i < n; i++) {
        char *p = text + 16 * i;
        if (i < 3)
            snprintf(p, 16, "%s", control[i]);
        else if (i < 259)
            snprintf(p, 16, "<0x%02X>", i - 3);
        else
            snprintf(p, 16, "w%d", i);
        s[i] = (Str){p, strlen(p)};
        kind[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
        score[i] = (float)-i;
    }
    gb_key_str(b, "tokenizer.ggml.model", "llama");
    gb_key_strs(b, "tokenizer.ggml.tokens", s, (size_t)n);
    gb_key_f32s(b, "tokenizer.ggml.scores", score, (size_t)n);
    gb_key_i32s(b, "tokenizer.ggml.token_type", kind, (size_t)n);
    gb_key_u32(b, "tokenizer.ggml.bos_token_id", n > 1 ? 1 : 0);
    gb_key_u32(b, "tokenizer.ggml.eos_token_id", n > 2 ? 2 : 0);
    free(s);
    free(text);
    free(kind);
    free(score);
}

/* Frequency divisors in the shape of Llama 3: 1 for fast pairs, a ramp, 8 for slow ones. */
static void add_factors(GgufBuilder *b, const TinyModel *t)
{
    int n = (t->n_rot ? t->n_rot : t->head_dim) / 2;
    float f[256];
    for (int j = 0; j < n; j++) f[j] = 3 * j < n ? 1 : 3 * j < 2 * n ? 1 + 7 * (float)j / n : 8;
    gb_tensor(b, "rope_freqs.weight", T_F32, 1, (int64_t[]){n}, f, (size_t)n * sizeof *f);
}

uint8_t *tiny_model(const TinyModel *t, size_t *size)
{
    const char *a = t->arch ? t->arch : "llama";
    uint64_t s = t->seed;
    GgufBuilder b = {0};
    gb_key_str(&b, "general.architecture", a);
    arch_u32(&b, a, "context_length", t->n_ctx ? t->n_ctx : 64);
    arch_u32(&b, a, "embedding_length", t->n_embd);
    arch_u32(&b, a, "block_count", t->n_layers);
    arch_u32(&b, a, "feed_forward_length", t->n_ff);
    arch_u32(&b, a, "attention.head_count", t->n_heads);
    arch_u32(&b, a, "attention.head_count_kv", t->n_kv_heads);
    arch_u32(&b, a, "attention.key_length", t->head_dim);
    arch_u32(&b, a, "attention.value_length", t->head_dim);
    arch_u32(&b, a, "attention.sliding_window", t->window);
    arch_u32(&b, a, "rope.dimension_count", t->n_rot);
    arch_f32(&b, a, "attention.layer_norm_rms_epsilon", 1e-5);
    arch_f32(&b, a, "rope.freq_base", t->base);
    arch_f32(&b, a, "rope.scaling.factor", t->linear);
    char key[64];
    snprintf(key, sizeof key, "%s.rope.scaling.type", a);
    if (t->linear > 0) gb_key_str(&b, key, "linear");
    if (!t->no_vocab) add_vocab(&b, t->n_vocab);
    add_matrix(&b, t, "token_embd.weight", t->embd_type, t->n_vocab, t->n_embd, 0, &s);
    for (int l = 0; l < t->n_layers; l++) add_layer(&b, t, l, &s);
    add_vector(&b, t, "output_norm.weight", t->n_embd, 1, 0.5, 0, &s);
    if (t->untied) add_matrix(&b, t, "output.weight", t->embd_type, t->n_vocab, t->n_embd, 0, &s);
    if (t->factors) add_factors(&b, t);
    return gb_finish(&b, size);
}
