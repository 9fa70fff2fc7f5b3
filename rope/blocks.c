/* Encodings by rotations of whole blocks: R(p) = exp(p B), B skew-symmetric, one per block and key
 * head. A real skew-symmetric B is Q Theta Q^T: Q orthogonal, Theta plain rotations of pairs. Hence
 * R(p) = Q rot(p theta) Q^T, and as (R(m) q).(R(n) k) does not change if both are mapped by Q^T,
 * heads are mapped by Q^T and their pairs then turned: the rotation of this program, with
 * frequencies of each key head. Nothing drifts, no exponential is taken at run time. */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCK = 256 };
enum { W_BASIS, W_RAW, W_THETA };      /* Rope.w */
enum { TYPE, BLOCK, SEED, CONJUGATE }; /* ComRoPE's args */
enum { TYPE_AP, TYPE_LD };
enum { LIE_BLOCK, LIE_SEED, LIE_CONJUGATE }; /* LieRE's */

/* What the two kinds have in common, from their arguments and tensors. */
typedef struct {
    int b, n; /* values of a block, whole blocks of a head */
    double seed, conjugate;
    const float *raw;   /* [K][n][b][b] or NULL */
    const float *theta; /* [K][n], times the generator of each block, or NULL: 1 */
    int upper;          /* the strictly upper triangle U alone: U - U^T */
} Blocks;

/* ---------------------------------------------------------------- B = Q Theta Q^T
 * Jacobi's method for skew-symmetric matrices, over 2 x 2 blocks: a skew 4 x 4 matrix is y -> u y +
 * y v on quaternions, u and v without real part, and y -> p y q turns u and v on their own. They
 * are turned to the first axis: what is left are two plain rotations (D. Hacon, SIAM J. Matrix
 * Anal. Appl. 14, 1993; M. H. C. Paardekooper, Numer. Math. 17, 1971). It is as good for repeated
 * and for zero frequencies, and leaves alone what is plain already. */

typedef struct {
    double w, x, y, z;
} Quat;

static Quat quat_mul(Quat a, Quat b)
{
    return (Quat){a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z,
                  a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
                  a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x,
                  a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}

/* The unit quaternion t with t i s conj(t) = u / |u|, s = the sign of u's first component: the
 * shortest turn. 1 if u is 0. */
static Quat quat_from_axis(double x, double y, double z)
{
    double len = sqrt(x * x + y * y + z * z), s = x < 0 ? -1 : 1;
    Quat t = {1 + fabs(x) / len, 0, -s * z / len, s * y / len};
    if (!(len > 0)) return (Quat){1, 0, 0, 0};
    double norm = sqrt(t.w * t.w + t.y * t.y + t.z * t.z);
    return (Quat){t.w / norm, 0, t.y / norm, t.z / norm};
}

/* g[4][4], whose columns are p e_c q, so that g^T m g is two plain rotations. m is skew. */
static void turn_four(double m[4][4], double g[4][4])
{
    Quat p = quat_from_axis(m[1][0] + m[3][2], m[2][0] - m[3][1], m[3][0] + m[2][1]);
    Quat q = quat_from_axis(m[1][0] - m[3][2], m[2][0] + m[3][1], m[3][0] - m[2][1]);
    q = (Quat){q.w, 0, -q.y, -q.z};
    for (int c = 0; c < 4; c++) {
        Quat e = {c == 0, c == 1, c == 2, c == 3};
        Quat v = quat_mul(quat_mul(p, e), q);
        g[0][c] = v.w, g[1][c] = v.x, g[2][c] = v.y, g[3][c] = v.z;
    }
}

/* Columns at[0 .. 3] of a[b][b] become a g. */
static void mix_columns(double *a, int b, const int at[4], double g[4][4])
{
    for (int i = 0; i < b; i++) {
        double *row = a + (size_t)i * (size_t)b, x[4];
        for (int c = 0; c < 4; c++) x[c] = row[at[c]];
        for (int c = 0; c < 4; c++)
            row[at[c]] = x[0] * g[0][c] + x[1] * g[1][c] + x[2] * g[2][c] + x[3] * g[3][c];
    }
}

/* Pairs j and k of B are made free of each other; 0 if they are, up to tol. */
static int annihilate(double *B, double *Q, int b, int j, int k, double tol)
{
    int at[4] = {2 * j, 2 * j + 1, 2 * k, 2 * k + 1};
    double m[4][4], g[4][4], off = 0;
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 4; c++) m[r][c] = B[at[r] * b + at[c]];
    for (int r = 2; r < 4; r++)
        for (int c = 0; c < 2; c++) off += m[r][c] * m[r][c];
    if (!(sqrt(off) > tol)) return 0;
    turn_four(m, g);
    mix_columns(B, b, at, g);
    for (int r = 0; r < b; r++) /* g^T B from B = -B^T: its other half */
        for (int c = 0; c < 4; c++) B[at[c] * b + r] = -B[r * b + at[c]];
    for (int r = 0; r < 4; r++) /* where these rows and columns meet: two rotations are left */
        for (int c = 0; c < 4; c++) B[at[r] * b + at[c]] = 0;
    for (int r = 0; r < 4; r += 2) {
        double sum = 0;
        for (int x = 0; x < 4; x++)
            for (int y = 0; y < 4; y++) sum += g[x][r + 1] * m[x][y] * g[y][r];
        B[at[r + 1] * b + at[r]] = sum;
        B[at[r] * b + at[r + 1]] = -sum;
    }
    mix_columns(Q, b, at, g);
    return 1;
}

static void swap_pairs(double *theta, double *Q, int b, int j)
{
    double t = theta[j];
    theta[j] = theta[j + 1], theta[j + 1] = t;
    for (int i = 0; i < b; i++)
        for (int c = 2 * j; c < 2 * j + 2; c++) {
            double x = Q[i * b + c];
            Q[i * b + c] = Q[i * b + c + 2], Q[i * b + c + 2] = x;
        }
}

/* theta >= 0, falling: pairs change places, and the second member of a pair its sign. */
static void order_pairs(double *theta, double *Q, int b)
{
    for (int j = 0; j < b / 2; j++) {
        if (!(theta[j] < 0)) continue;
        theta[j] = -theta[j];
        for (int i = 0; i < b; i++) Q[i * b + 2 * j + 1] = -Q[i * b + 2 * j + 1];
    }
    for (int n = b / 2 - 1; n > 0; n--)
        for (int j = 0; j < n; j++)
            if (theta[j] < theta[j + 1]) swap_pairs(theta, Q, b, j);
}

/* B[b][b], skew, into Q[b][b] and theta[b/2]; B is destroyed. 0, or -1 if it does not converge:
 * some 10 sweeps do, convergence is quadratic. */
static int skew_schur(double *B, double *Q, double *theta, int b)
{
    double norm = 0;
    int sweep = 0, turned = 1;
    for (int i = 0; i < b * b; i++) norm += B[i] * B[i], Q[i] = i / b == i % b;
    for (; turned && sweep < 100; sweep++) {
        turned = 0;
        for (int j = 0; j < b / 2; j++)
            for (int k = j + 1; k < b / 2; k++)
                turned |= annihilate(B, Q, b, j, k, 1e-15 * sqrt(norm));
    }
    for (int j = 0; j < b / 2; j++) theta[j] = B[(2 * j + 1) * b + 2 * j];
    order_pairs(theta, Q, b);
    return turned ? -1 : 0;
}

/* ---------------------------------------------------------------- generators */

/* A random orthogonal Q[b][b]: uniform rows made orthonormal, one after the other, twice. */
static void random_basis(uint64_t *s, double *Q, int b)
{
    for (int i = 0; i < b; i++) {
        double *row = Q + (size_t)i * (size_t)b, len = 0;
        for (int c = 0; c < b; c++) row[c] = rope_uniform(s);
        for (int k = 0; k < 2 * i; k++) {
            const double *other = Q + (size_t)(k % i) * (size_t)b;
            double dot = 0;
            for (int c = 0; c < b; c++) dot += row[c] * other[c];
            for (int c = 0; c < b; c++) row[c] -= dot * other[c];
        }
        for (int c = 0; c < b; c++) len += row[c] * row[c];
        for (int c = 0; c < b; c++) row[c] /= sqrt(len);
    }
}

/* B = Q Theta Q^T with the plain frequencies and a random Q. */
static void conjugated(const double *theta, uint64_t *s, double *B, int b)
{
    double *Q = xcalloc((size_t)b * (size_t)b, sizeof *Q);
    random_basis(s, Q, b);
    for (int r = 0; r < b; r++)
        for (int c = 0; c < r; c++) {
            double sum = 0;
            for (int j = 0; j < b / 2; j++)
                sum += theta[j] * (Q[r * b + 2 * j + 1] * Q[c * b + 2 * j] -
                                   Q[r * b + 2 * j] * Q[c * b + 2 * j + 1]);
            B[r * b + c] = sum;
            B[c * b + r] = -sum;
        }
    free(Q);
}

/* B = scale (P - P^T); upper: of the strictly upper triangle of P alone. */
static void skewed(const float *P, double scale, int upper, double *B, int b)
{
    for (int r = 0; r < b; r++)
        for (int c = 0; c < r; c++) {
            double below = upper ? 0 : (double)P[r * b + c];
            B[r * b + c] = scale * (below - (double)P[c * b + r]);
            B[c * b + r] = -B[r * b + c];
        }
}

/* Random weights: of P, so that angles per token are about 1 at most (a semicircle of radius
 * 2 sqrt(b) times the deviation), and of theta in [0, 1). */
static void draw(Rope *r, const Blocks *k, uint64_t *s)
{
    size_t n = (size_t)r->sets * (size_t)k->n, each = (size_t)k->b * (size_t)k->b;
    r->w[W_RAW] = xcalloc(n * each, sizeof *r->w[0]);
    r->n_w[W_RAW] = n * each;
    double size = (k->upper ? 0.87 : 0.61) / sqrt((double)k->b);
    for (size_t i = 0; i < n * each; i++) r->w[W_RAW][i] = (float)(size * rope_uniform(s));
    if (r->kind != &rope_comrope || (int)r->p.arg[TYPE] != TYPE_LD) return;
    r->w[W_THETA] = xcalloc(n, sizeof *r->w[0]);
    r->n_w[W_THETA] = n;
    for (size_t i = 0; i < n; i++) r->w[W_THETA][i] = (float)(0.5 + 0.5 * rope_uniform(s));
}

/* Numbers that are no numbers, in the weights as they were read. */
static int refuse_weights(const Rope *r, Err *e)
{
    for (int w = W_RAW; w <= W_THETA; w++)
        for (size_t i = 0; i < r->n_w[w]; i++)
            if (!(fabs((double)r->w[w][i]) <= 1e6))
                return err_set(e, "rope %s: weight %zu of layer %d is %g; expected at most 1e6",
                               r->kind->name, i, r->p.layer, (double)r->w[w][i]);
    return 0;
}

/* Frequencies and basis of every block, from its generator. */
static int decompose(Rope *r, const Blocks *k, uint64_t *s, Err *e)
{
    size_t b = (size_t)k->b, P = (size_t)r->n_pairs, plain = 1;
    double *B = xcalloc(2 * b * b, sizeof *B), *Q = B + b * b;
    int bad = 0;
    r->n_w[W_BASIS] = (size_t)r->sets * (size_t)k->n * b * b;
    r->w[W_BASIS] = xcalloc(r->n_w[W_BASIS] + 1, sizeof *r->w[0]);
    for (size_t i = 0; !bad && i < (size_t)r->sets * (size_t)k->n; i++) {
        double *theta = r->inv_freq + i / (size_t)k->n * P + i % (size_t)k->n * b / 2;
        if (k->raw)
            skewed(k->raw + i * b * b, k->theta ? (double)k->theta[i] : 1, k->upper, B, k->b);
        else
            conjugated(theta, s, B, k->b);
        bad = skew_schur(B, Q, theta, k->b);
        for (size_t c = 0; c < b * b; c++) {
            r->w[W_BASIS][i * b * b + c] = (float)Q[c];
            plain &= !(fabs(Q[c] - (c / b == c % b)) > 0);
        }
    }
    free(B);
    if (plain) free(r->w[W_BASIS]), r->w[W_BASIS] = NULL, r->n_w[W_BASIS] = 0;
    return bad ? err_set(e,
                         "rope %s: the blocks of layer %d have no eigenvalues that could be "
                         "found",
                         r->kind->name, r->p.layer)
               : 0;
}

/* The plain frequencies for every key head; 0 past the last whole block. */
static int plain_sets(Rope *r, const Blocks *k, Err *e)
{
    size_t P = (size_t)r->n_pairs;
    double amplitude;
    if (rope_plain.freqs(r, 0, r->inv_freq, &amplitude, e)) return -1;
    for (size_t j = (size_t)k->n * (size_t)k->b / 2; j < P; j++) r->inv_freq[j] = 0;
    for (size_t h = 1; h < (size_t)r->sets; h++)
        memcpy(r->inv_freq + h * P, r->inv_freq, P * sizeof *r->inv_freq);
    return 0;
}

/* found: tensors were there. They become frequencies and a basis, and are no longer needed. */
static int blocks_load(Rope *r, Blocks *k, int found, Err *e)
{
    const char *name = r->kind->name;
    uint64_t s = (uint64_t)(k->seed + k->conjugate) * 4096 + (uint64_t)r->p.layer;
    if (!found && r->file)
        return err_set(e, "%s: tensor 'blk.%d.rope_%s.weight' is missing", r->file, r->p.layer,
                       name);
    if (found && s >= 4096)
        return err_usage(e, "--rope %s: there are weights: leave out seed and conjugate", name);
    if (plain_sets(r, k, e)) return -1;
    if (k->seed > 0) draw(r, k, &s);
    k->raw = r->w[W_RAW];
    k->theta = r->w[W_THETA];
    if (!k->raw && !(k->conjugate > 0)) return 0;
    if (refuse_weights(r, e) || decompose(r, k, &s, e)) return -1;
    for (int w = W_RAW; w <= W_THETA; w++) free(r->w[w]), r->w[w] = NULL, r->n_w[w] = 0;
    return 0;
}

/* ---------------------------------------------------------------- the two kinds */

/* Of the arguments, args[at] is the block size, and the two after it. */
static Blocks blocks_of(const Rope *r, int at)
{
    const double *arg = r->p.arg + at;
    Blocks k = {.b = (int)arg[0], .seed = floor(arg[1]), .conjugate = floor(arg[2])};
    k.n = r->p.n_rot / k.b;
    return k;
}

static int blocks_params(const RopeParams *p, int at, const char *name, Err *e)
{
    double b = p->arg[at];
    if (b > (double)p->n_rot || (int)b % 2 || (double)(int)b < b)
        return err_usage(e,
                         "--rope %s: block: expected an even number up to the %d values that "
                         "turn, found %g",
                         name, p->n_rot, b);
    if (p->arg[at + 1] > 0 && p->arg[at + 2] > 0)
        return err_usage(e, "--rope %s: seed and conjugate exclude each other", name);
    return 0;
}

static int comrope_params(RopeParams *p, Err *e)
{
    return blocks_params(p, BLOCK, "comrope", e);
}

static int lie_params(RopeParams *p, Err *e)
{
    return blocks_params(p, LIE_BLOCK, "lie", e);
}

static int comrope_load(Rope *r, RopeSource *s, Err *e)
{
    Blocks k = blocks_of(r, BLOCK);
    int64_t all = (int64_t)r->sets * k.n;
    int found = rope_tensor(s, r, W_RAW, "rope_comrope.weight", k.b, k.b * all, e), theta = 0;
    if (found < 0) return -1;
    if ((int)r->p.arg[TYPE] == TYPE_LD)
        theta = rope_tensor(s, r, W_THETA, "rope_comrope.theta", k.n, r->sets, e);
    if (theta < 0) return -1;
    if ((int)r->p.arg[TYPE] == TYPE_LD && theta != found)
        return err_set(e,
                       "rope comrope: layer %d: type ld has tensors rope_comrope.weight and "
                       "rope_comrope.theta; found one of them alone",
                       r->p.layer);
    return blocks_load(r, &k, found, e);
}

static int lie_load(Rope *r, RopeSource *s, Err *e)
{
    Blocks k = blocks_of(r, LIE_BLOCK);
    k.upper = 1;
    int64_t rows = (int64_t)r->sets * k.n * k.b;
    int found = rope_tensor(s, r, W_RAW, "rope_lie.weight", k.b, rows, e);
    return found < 0 ? -1 : blocks_load(r, &k, found, e);
}

/* They were found with the basis. */
static int blocks_freqs(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e)
{
    (void)length, (void)e;
    size_t n = (size_t)r->sets * (size_t)r->n_pairs;
    if (inv_freq != r->inv_freq) memcpy(inv_freq, r->inv_freq, n * sizeof *inv_freq);
    *amplitude = 1;
    return 0;
}

/* x = Q^T x in each block of b values: value i of a block is member i % 2 of its pair i / 2. In
 * double, and rounded once. */
static void mix_blocks(const Rope *r, int kh, float *x, int b)
{
    double y[MAX_BLOCK];
    int at[MAX_BLOCK], n = r->p.n_rot / b;
    const float *Q = r->w[W_BASIS];
    if (!Q) return;
    Q += (size_t)kh * (size_t)n * (size_t)b * (size_t)b;
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < b; i += 2) rope_pair(r, (k * b + i) / 2, &at[i], &at[i + 1]);
        for (int i = 0; i < b; i++) y[i] = 0;
        for (int c = 0; c < b; c++, Q += b)
            for (int i = 0; i < b; i++) y[i] += (double)Q[i] * (double)x[at[c]];
        for (int i = 0; i < b; i++) x[at[i]] = (float)y[i];
    }
}

static void comrope_mix(const Rope *r, int kh, float *x)
{
    mix_blocks(r, kh, x, (int)r->p.arg[BLOCK]);
}

static void lie_mix(const Rope *r, int kh, float *x)
{
    mix_blocks(r, kh, x, (int)r->p.arg[LIE_BLOCK]);
}

#define SEED_ARG                                                                                   \
    {                                                                                              \
        "seed", 0, 0, 1e12, "above 0: random weights drawn from it", NULL                          \
    }
#define CONJUGATE_ARG                                                                              \
    {                                                                                              \
        "conjugate", 0, 0, 1e12,                                                                   \
            "above 0: the plain generator in random orthogonal bases drawn from it", NULL          \
    }
#define HOW                                                                                        \
    "Each generator is taken apart once, B = Q Theta Q^T: queries and keys are mapped by Q^T, "    \
    "which no score can tell from mapping them by Q rot(p theta) Q^T, and their pairs then turn "  \
    "by p theta, other angles for each key head. What is shown of queries and keys, before and "   \
    "after rotation, is in that basis. It costs a table of angles per key head and layer and "     \
    "block^2 multiplications per block, query and key. Value i of a block is member i % 2 of "     \
    "rotary pair i / 2; values past the last whole block stay as they are. With block=2, weights " \
    "[[0, -theta_j], [0, 0]] are plain RoPE; all weights 0 are no encoding; without weights the "  \
    "generator is the plain one. So in one dimension this is RoPE with free frequencies and a "    \
    "change of basis that W_q and W_k could take over (conjugate=N with the same bases in their "  \
    "rows gives plain RoPE's logits back). "

const RopeKind rope_comrope = {
    .name = "comrope",
    .formula = "R(p) = exp(p B), B = P - P^T (ap) or theta (P - P^T) (ld), a matrix per block",
    .source = "arXiv:2506.03737",
    .summary = "ComRoPE on text: blocks of values turned by learned commuting matrices",
    .detail =
        HOW "Tensors: blk.N.rope_comrope.weight [block, block * blocks * key heads], the rows "
            "of P of block after block, key head after key head; with type=ld "
            "blk.N.rope_comrope.theta [blocks, key heads], too. Positions in text have one "
            "axis: the two types of the paper differ by that factor alone.",
    .args = {{"type", TYPE_AP, 0, 1, "ap: angles of the matrix itself; ld: times theta", "ap ld"},
             {"block", 8, 2, MAX_BLOCK, "values of a block, even", NULL},
             SEED_ARG,
             CONJUGATE_ARG},
    .whole = 1u << BLOCK | 1u << SEED | 1u << CONJUGATE,
    .params = comrope_params,
    .load = comrope_load,
    .freqs = blocks_freqs,
    .per_head = 1,
    .mix = comrope_mix,
};

const RopeKind rope_lie = {
    .name = "lie",
    .formula = "R(p) = exp(p (U - U^T)), U strictly upper triangular, a matrix per block",
    .source = "arXiv:2406.10322",
    .summary = "LieRE on text: blocks of values turned by the exponential of a learned generator",
    .detail = HOW "Tensors: blk.N.rope_lie.weight [block, block * blocks * key heads], the rows of "
                  "a square matrix of block after block, key head after key head, of which the "
                  "strictly upper triangle U is used: U_01 = -theta turns a pair by p theta.",
    .args = {{"block", 8, 2, MAX_BLOCK, "values of a block, even (LieRE_8 ... the whole head)",
              NULL},
             SEED_ARG,
             CONJUGATE_ARG},
    .whole = 1u << LIE_BLOCK | 1u << LIE_SEED | 1u << LIE_CONJUGATE,
    .params = lie_params,
    .load = lie_load,
    .freqs = blocks_freqs,
    .per_head = 1,
    .mix = lie_mix,
};
