/* ropescope: a transformer inference runtime that shows how rotary position embeddings work.
 *
 * The only header. Types first, then the prototypes of each file, in reading order.
 *
 * Data flows one way: GGUF file -> Model (read-only, mapped) -> forward over a State (one mutable
 * timeline) -> logits -> sampler; and out of attention, through a Probe, into statistics.
 *
 * Shape letters used in all comments:
 *   L layers   E n_embd   H query heads   K kv heads   D head_dim   P rotary pairs (n_rot / 2)
 *   F n_ff     V n_vocab  T positions     N tokens of one batch
 *   X experts  U of them used by a token
 * Index names: l layer, h query head, kh kv head, j pair, pos a token's position, t attended to.
 */
#ifndef ROPESCOPE_MODEL_H
#define ROPESCOPE_MODEL_H

#include <locale.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

#define ROPESCOPE_VERSION "0.1.0"

/* A plain `cc run.c ...` must give the same bits as the Makefile's flags: no contraction of
 * a * b + c into a fused operation unless the code says fmaf. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(CONTRACT_OFF) /* the Makefile's -ffp-contract=off */
#pragma GCC optimize("fp-contract=off")
#endif

#define MUST_USE          __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* ---------------------------------------------------------------- run.c: errors and memory */

/* Bad input (a file, a text, an option): one sentence naming file, field, expected, found. */
typedef struct {
    char msg[1024];
    int usage; /* the fault lies in how the program was called */
} Err;

/* Fills e and returns -1, so that callers write: return err_set(e, "...", ...). */
int err_set(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
int err_usage(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3); /* the same, about an option */

/* Out of memory and usage errors end the program: exit 1. */
_Noreturn void die(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Our own bugs. Stays on in release builds; never used about the contents of a file. */
#define MUST(cond) ((cond) ? (void)0 : die("bug: %s:%d: %s", __FILE__, __LINE__, #cond))

void *xcalloc(size_t n, size_t size);           /* zeroed; dies when out of memory */
void *xrealloc(void *p, size_t n, size_t size); /* n * size bytes; dies when out of memory */

/* A view of bytes; not terminated, not owned. */
typedef struct {
    const char *s;
    size_t n;
} Str;

int str_is(Str s, const char *word); /* 1 if s is exactly the C string */

/* A growable byte string; s is terminated when n > 0. Zero-initialise; free(b.s) at the end. */
typedef struct {
    char *s;
    size_t n, cap;
} Bytes;

void bytes_add(Bytes *b, const char *s, size_t n);
/* The whole of a file ("-" is stdin), terminated, appended to b. 0 or -1. */
int bytes_read(Bytes *b, const char *path, Err *e) MUST_USE;

/* A whole file, mapped read-only; it has one byte at least. NULL on error. */
const uint8_t *map_file(const char *path, size_t *size, Err *e) MUST_USE;
void unmap_file(const uint8_t *map, size_t size);

/* An output file that appears whole or not at all: written beside its place, then renamed. */
typedef struct {
    FILE *f;
    char *path, *tmp;
} OutFile;

int out_open(OutFile *o, const char *path, Err *e) MUST_USE; /* "-" is stdout */
int out_close(OutFile *o, Err *e) MUST_USE;                  /* flush, sync, rename */
void out_abandon(OutFile *o);                                /* leaves nothing behind */

/* The same for a folder of files. */
typedef struct {
    char *path, *tmp; /* NULL: not open */
} OutDir;

int out_dir_open(OutDir *d, const char *path, Err *e) MUST_USE; /* new, or an empty one */
int out_dir_file(OutDir *d, const char *name, const void *data, size_t n, Err *e) MUST_USE;
int out_dir_close(OutDir *d, Err *e) MUST_USE;
void out_dir_abandon(OutDir *d);

/* ---------------------------------------------------------------- run.c: the GGUF container */

/* clang-format off */
enum { /* value types of GGUF metadata */
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STR,
    GGUF_ARR, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_N_TYPES
};

/* One metadata entry. val points into the mapping, at the value or the first array element. */
typedef struct {
    Str key;
    uint32_t type; /* GGUF_... ; GGUF_ARR: elem and n say what is inside */
    uint32_t elem;
    uint64_t n;
    const uint8_t *val;
    size_t bytes; /* of val, within the file */
} GgufKey;

enum { /* tensor types, numbered as in the file */
    T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8, T_Q2_K = 10,
    T_Q3_K = 11, T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14, T_IQ4_NL = 20, T_IQ4_XS = 23, T_BF16 = 30,
    T_N_TYPES = 31
};
/* clang-format on */

/* A matrix is ne[1] rows of ne[0] values; data points into the mapping. */
typedef struct {
    Str name;
    int type; /* T_... */
    int n_dims;
    int64_t ne[4];    /* ne[0] is the row length; missing dimensions are 1 */
    size_t row_bytes; /* of one row of ne[0] values */
    size_t bytes;     /* of the whole tensor */
    const uint8_t *data;
} Tensor;

typedef struct {
    char *path;
    const uint8_t *map; /* the whole file, read-only */
    size_t size;
    int borrowed; /* map belongs to the caller of gguf_parse */
    uint32_t version;
    size_t n_keys, n_tensors;
    GgufKey *keys;   /* sorted by key */
    Tensor *tensors; /* sorted by name */
} Gguf;

/* Maps and checks a file; on -1 g is closed and e says what is wrong. */
int gguf_open(Gguf *g, const char *path, Err *e) MUST_USE;
/* The same over memory owned by the caller (tests, fuzzing); path is used in messages only. */
int gguf_parse(Gguf *g, const char *path, const uint8_t *data, size_t size, Err *e) MUST_USE;
void gguf_close(Gguf *g);

const GgufKey *gguf_find(const Gguf *g, const char *key); /* NULL if absent */
const Tensor *gguf_tensor(const Gguf *g, const char *name);

/* Typed reading of one key: 1 found, 0 absent (out is left alone), -1 of another type or out of
 * [lo, hi]. Integers of any width are accepted; a bool is 0 or 1. */
int gguf_int(const Gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, Err *e) MUST_USE;
int gguf_float(const Gguf *g, const char *key, double lo, double hi, double *out, Err *e) MUST_USE;
int gguf_bool(const Gguf *g, const char *key, int *out, Err *e) MUST_USE;
int gguf_str(const Gguf *g, const char *key, Str *out, Err *e) MUST_USE;
/* Arrays: 1 found (out is allocated, the caller frees; n elements), 0 absent, -1 wrong type.
 * gguf_ints takes any integer width and wants every value to fit an int. */
int gguf_strs(const Gguf *g, const char *key, Str **out, size_t *n, Err *e) MUST_USE;
int gguf_floats(const Gguf *g, const char *key, float **out, size_t *n, Err *e) MUST_USE;
int gguf_ints(const Gguf *g, const char *key, int **out, size_t *n, Err *e) MUST_USE;
/* General scalar-or-array reading: n ints for n layers, a scalar is repeated. */
int gguf_per_layer(const Gguf *g, const char *key, int64_t lo, int64_t hi, int *out, int n,
                   Err *e) MUST_USE;

/* A GGUF 3 file to be written from front to back, so that memory holds only a piece of it:
 *
 *     gguf_out_open(&w, path, &e);                         nothing is at path before the end
 *     gguf_out_str(&w, "general.architecture", "llama");   every key
 *     gguf_out_tensor(&w, &tensor);                        every tensor: name, type and shape
 *     gguf_out_data(&w, values, n_bytes, &e);              all their values, in the same order
 *     gguf_out_close(&w, &e);                              now it is
 *
 * After a -1 of the last two: gguf_out_abandon(&w). No name may occur twice. */
typedef struct {
    OutFile out;
    char *path;        /* for messages */
    Bytes keys, infos; /* as in the file; written before the first values */
    uint64_t n_keys, n_tensors;
    size_t align;    /* 32, or what the key general.alignment says */
    uint64_t end;    /* where the next tensor begins, from the first one */
    uint64_t *place; /* where each does, */
    uint64_t *bytes; /* and how many it has */
    uint64_t at;     /* the tensor being written, */
    uint64_t done;   /* and so many bytes of it are */
    uint64_t head;   /* bytes before the first tensor; 0: nothing is written yet */
} GgufOut;

int gguf_out_open(GgufOut *w, const char *path, Err *e) MUST_USE; /* "-" is stdout */
void gguf_out_key(GgufOut *w, const GgufKey *k); /* of any type: n counts for arrays only */
void gguf_out_int(GgufOut *w, const char *key, uint32_t type, int64_t v); /* GGUF_U8 .. I64 */
void gguf_out_bool(GgufOut *w, const char *key, int v);
void gguf_out_float(GgufOut *w, const char *key, float v);
void gguf_out_str(GgufOut *w, const char *key, const char *v);
void gguf_out_strs(GgufOut *w, const char *key, const Str *v, size_t n);
void gguf_out_floats(GgufOut *w, const char *key, const float *v, size_t n);
void gguf_out_ints(GgufOut *w, const char *key, const int32_t *v, size_t n);
void gguf_out_tensor(GgufOut *w, const Tensor *t); /* all members but data and the sizes count */
int gguf_out_data(GgufOut *w, const void *data, size_t n, Err *e) MUST_USE; /* any n */
/* Instead, in any order, by several threads at once, but not to a pipe: first scatter, then n bytes
 * from byte `from` of tensor i. The caller sees to it that all are written. */
int gguf_out_scatter(GgufOut *w, Err *e) MUST_USE;
int gguf_out_at(const GgufOut *w, size_t i, uint64_t from, const void *data, size_t n,
                Err *e) MUST_USE;
int gguf_out_close(GgufOut *w, Err *e) MUST_USE;
void gguf_out_abandon(GgufOut *w);

/* ---------------------------------------------------------------- run.c: numbers and kernels */

#define QB      32  /* values in one block of quantized weights or activations */
#define LANES   32  /* virtual lanes of the canonical sum */
#define SUM_SEG 256 /* keys summed into one partial of the attention output */

/* 32 weights of any quantized type, unpacked: value i = (d * sc[g]) * q[i] + dm * mn[g], g = i/16.
 * The products and the sum are rounded one by one, in this order. |sc|, |mn| <= 128. */
typedef struct {
    int8_t q[QB];
    int16_t sc[2], mn[2];
    float d, dm;
} Q32;

/* 32 activations as integers: x[i] ~ d * q[i]; sum[g] = sum of q over half g. */
typedef struct {
    int8_t q[QB];
    int32_t sum[2];
    float d;
} Q8;

typedef struct {
    const char *name; /* "Q4_K" */
    int block, bytes; /* values and bytes of one block; block 0: not a type we read */
    /* n32 groups of 32 values, from the start of a row. NULL for F32, F16, BF16. */
    void (*unpack)(Q32 *out, const uint8_t *row, int n32);
    /* n finite values, a multiple of the block, rounded to this type; an infinite scale or value
     * stands for what was too large. F16 needs an even address. NULL: a type that is only read. */
    void (*pack)(uint8_t *restrict row, const float *restrict x, int n);
} TensorType;

const TensorType *tensor_type(int type); /* NULL if we cannot read it */

/* Sums over a row of attention, its i-th weight in part i mod PARTS: products of two floats, and of
 * a float and a position, are exact in double. */
#define PARTS 8
typedef struct {
    double score[PARTS], position[PARTS], weight[PARTS]; /* sums of a z, a t, a */
    float max[PARTS], top[PARTS];                        /* largest a, largest z */
} RowSums;

/* Sums over tokens of each of n values, and the largest; NULL: not wanted. */
typedef struct {
    double *sum, *size, *square; /* of x, |x|, x^2 */
    float *most;                 /* |x| */
} ValueSums;

/* In a file: pair j = rows (2j, 2j + 1) of a head's queries and keys, or (j, j + n / 2). Once they
 * are computed pairs are adjacent, whatever the file has: sums over a head then run in one order,
 * and two files of the same model give the same bits. */
enum { ROPE_ADJACENT, ROPE_HALF };

/* Sums over tokens of the radii r = sqrt(a^2 + b^2) of n adjacent pairs, and the largest. */
typedef struct {
    double *sum, *most;
    int n;
} RadiusSums;

/* The arithmetic of the program, once per instruction set. Every instance gives the same bits:
 * a float sum runs over 32 lanes (element i goes to lane i mod 32, by fused multiply-add, in
 * ascending order), and the lanes are added as a tree: 16 + 16, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
 * Strides (…s) count elements. No two arguments overlap unless said. */
typedef struct {
    const char *name;
    int (*usable)(void); /* does this CPU, and its operating system, have it? */
    /* Matrix times matrix: y[i * ys + r] = sum_c w[r * ws + c] * x[i * xs + c], for rows r and
     * toks i, c < n. Fastest where rows ws apart do not meet in one cache set. */
    void (*matmul)(float *y, size_t ys, const float *w, size_t ws, int rows, const float *x,
                   size_t xs, int toks, int n);
    /* The same from integers: y = sum over blocks b, ascending, in one lane, of
     *   fma(S_b, d_b * dx_b, y), S_b = sum_i sc * q_i * x_i exact; then, if the weights have a
     *   minimum (dm != 0), fma(M_b, dm_b * dx_b, y), M_b = sum_g mn_g * sum_g exact.
     * Row r is w[r * nb .. r * nb + nb - 1], token i is x[i * xs ..]. */
    void (*qmatmul)(float *y, size_t ys, const Q32 *w, int rows, const Q8 *x, size_t xs, int toks,
                    int nb);
    /* Matrix times vector, straight from the file's rows, which follow each other: what decoding
     * does, at the speed of memory. y[r] = the sum of matmul (n values) or of qmatmul (nb blocks).
     * NULL: unpack the rows, then matmul or qmatmul. */
    void (*matvec[T_N_TYPES])(float *y, const uint8_t *w, int rows, const float *x, int n);
    void (*qmatvec[T_N_TYPES])(float *y, const uint8_t *w, int rows, const Q8 *x, int nb);
    /* nb blocks of 32 activations to integers: d = max|x| / 127, q = round-to-even(x * 127 / max);
     * d = 0, q = 0 when max|x| < 1e-30; d = NaN, q = 0 in a block with a NaN or an infinity. */
    void (*quantize)(Q8 *out, const float *x, int nb);
    void (*unpack_f16)(float *out, const uint16_t *in, int n);
    void (*unpack_bf16)(float *out, const uint16_t *in, int n);
    void (*unpack_q32)(float *out, const Q32 *in, int nb);   /* the formula of Q32 */
    void (*pack_f16)(uint16_t *out, const float *in, int n); /* to nearest, ties to even */
    /* Faster TensorType.unpack of some types; NULL: the plain one. */
    void (*unpack[T_N_TYPES])(Q32 *out, const uint8_t *row, int n32);
    /* One segment of attention outputs: out[i * os + c] = (add: out[i * os + c] +) sum over t of
     * a[i * as + t] * v[t * vs + c], i < rows, c < n: fused, t ascending from 0, over the row's
     * first n_t + i * step keys, at most SUM_SEG; a row that has none is left alone. */
    void (*weighted_sum)(float *out, size_t os, const float *a, size_t as, int rows, const float *v,
                         size_t vs, int n_t, int step, int n, int add);
    /* x[i] = exp(x[i] - max x) / sum, in place; the sum in canonical lanes. */
    void (*softmax)(float *x, int n);
    /* y[i] = act(g[i]) * y[i], or with g NULL act(y[i]): see ACT_SILU. */
    void (*activate)(int act, float *y, const float *g, int n);
    /* m += the upper triangle, row by row, of sum over toks i of x_i x_i^T, x_i[D] = x + i * xs; in
     * double, one token after the other: a product of two floats is exact. */
    void (*add_moments)(double *m, const float *x, size_t xs, int toks, int D);
    /* The same of single values, c < n, and of the pairs of their first 2 s->n. NaN is no
     * largest. */
    void (*add_values)(const ValueSums *s, const float *x, size_t xs, int toks, int n);
    void (*add_radii)(const RadiusSums *s, const float *x, size_t xs, int toks);
    /* Adds one piece of a row of attention: n weights a and scores z of keys t, t + 1, ... */
    void (*add_row)(RowSums *s, const float *a, const float *z, int t, int n);
    /* What `bench` holds speed against: independent multiplications and additions in registers, in
     * floats and in int8 sums, as fast as this instruction set goes. The number of both done. */
    double (*peak_float)(int rounds);
    double (*peak_int8)(int rounds);
} Kernels;

extern const Kernels kernels_base;
/* The fastest usable instance, or the named one (NULL: ROPESCOPE_ISA, then the fastest). */
const Kernels *kernels_pick(const char *name, Err *e) MUST_USE;
const Kernels *kernels_at(int i); /* every instance of this binary, base first; NULL at the end */

/* exp in float, our own: the same bits on every machine; within 1.02 ulp. */
float exp_f32(float x);

/* Activations: all are x / (1 + exp(-u(x))) with an odd u.
 * - SiLU: u = x.
 * - GELU by tanh (Hendrycks and Gimpel, arXiv:1606.08415): x (1 + tanh(c (x + 0.044715 x^3))) / 2
 *   with c = sqrt(2 / pi); as 1 + tanh(v) = 2 / (1 + exp(-2v)), u = x (2c + 0.044715 * 2c x^2).
 * - GELU: x Phi(x), Phi the normal distribution: u = ln(Phi(x) / Phi(-x)), here x P(x^2) with a
 *   polynomial P of degree 10, fitted for |x| <= 6 with the weight |x| max(Phi(-|x|), 1e-4) on its
 *   error; x^2 is cut at 36. Relative error below 1.6e-7 for x > 0, as of 1 + erf in float;
 *   absolute error below 6.3e-8 for x < 0. */
enum { ACT_SILU, ACT_GELU_TANH, ACT_GELU };
enum { GELU_TERMS = 11 };
extern const float gelu_terms[GELU_TERMS]; /* of P, the highest power first */
#define GELU_CUT    36.0f
#define GELU_TANH_1 0x1.988454p+0f /* 2 sqrt(2 / pi) */
#define GELU_TANH_3 0x1.2444f4p-4f /* 0.044715 times that */
/* SplitMix64 (Steele, Lea, Flood, 2014): the state advances by a constant and is then mixed. */
uint64_t rng_next(uint64_t *state);

/* ---------------------------------------------------------------- run.c: RoPE */

/* A position encoding turns the two values of every rotary pair by an angle: pair j at position p
 * by p * inv_freq[j]. Most kinds only supply frequencies; the hooks of RopeKind are what else an
 * encoding may change. `forward` knows the hooks and no kind. */

enum { ROPE_ARGS = 12, ROPE_WEIGHTS = 6, MAX_PAIRS = 8192 };

/* A number that a kind has of its own: --rope KIND:name=value. */
typedef struct {
    const char *name;
    double def, lo, hi; /* NAN: what it is without a word is said in meaning */
    const char *meaning;
    const char *words; /* "a b c": one of these, the number is its place; NULL: a number */
} RopeArg;

/* What an encoding is made from: the model file, then the command line. */
typedef struct {
    int head_dim, n_rot;         /* n_rot rotated values per head, even, <= head_dim */
    double base;                 /* rope_theta */
    double factor;               /* context scaling; 1 = none */
    int n_ctx_orig;              /* context the model was trained for, before any scaling */
    const float *divisors;       /* [n_rot / 2] frequency divisors (rope_freqs.weight) or NULL */
    double pos_scale, pos_shift; /* position p of token t: pos_shift + pos_scale * t (1, 0) */
    int layer, n_layers;         /* which one of how many; for params and freqs alone */
    int n_heads, n_kv_heads, n_embd, n_ctx_train;
    double score_scale; /* of q k: 1 / sqrt(head_dim), unless the model has another */
    /* Attention heads made from each projected query head (1), and what their outputs count when
     * the model's output matrix has no columns for all of them (1, 0). */
    int copies;
    double fold[2];
    int halved;            /* 1: half of the query and key heads are projected */
    double arg[ROPE_ARGS]; /* as the kind's table of args names them */
    const char *file;      /* a GGUF file with the kind's weights; NULL: the model's, or none */
    /* Values of a head that a half-split file, and a checkpoint of Hugging Face, have in two
     * halves: pair j is (j, j + n_split / 2); 0: n_rot; -1: a checkpoint has adjacent pairs. */
    int n_split;
    int window; /* keys that a query of these layers sees, itself included; 0: all */
} RopeParams;

typedef struct Rope Rope;
typedef struct RopeSource RopeSource;

/* Whose angles: those of keys, of queries, of the second copy of a query head. */
enum { ROPE_K, ROPE_Q, ROPE_Q_COPY };

/* One row of a table of angles. */
typedef struct {
    const Rope *r;
    const double *inv_freq; /* [P] in force */
    int part, kh;           /* ROPE_K ...; key head */
    int length;             /* in force, see RopeKind.length */
    double p;               /* position, a real number */
} RopeAt;

/* A layer at work on the tokens at positions pos .. pos + n - 1. */
typedef struct {
    const Rope *r;
    const Kernels *k;
    int pos, n;
    const float *x;  /* [n][E] what the queries and keys were projected from */
    float *work;     /* [n][kind.work(r)] of this key head, until the layer is done */
    double *memory;  /* [kind.memory(r)] of this layer and key head, zero before the first token */
    double *history; /* [n_ctx][kind.history(r)] of them: kept for every token so far */
} RopeCall;

/* One kind of position encoding: a row of the registry. What is NULL or 0 is the default. All
 * hooks are pure functions of what they are given, and run on several threads. */
typedef struct {
    const char *name, *formula, *source;
    const char *summary; /* a line for the list of kinds */
    const char *detail;  /* paragraphs: what each symbol is, what it costs, what it reduces to */
    int per_layer;       /* layers differ: one frequency table does not describe it */
    unsigned common;     /* ROPE_FACTOR, ROPE_ORIGINAL: it has these keys, too; ROPE_NEEDS_FACTOR:
                          * in words it must be given, if the file has none */
    RopeArg args[ROPE_ARGS];
    unsigned whole; /* bit i: args[i] takes whole numbers alone */
    /* Settles the numbers before anything is made of them. */
    int (*params)(RopeParams *p, Err *e);
    /* Tensors of its own, into r->w; called once, before freqs. */
    int (*load)(Rope *r, RopeSource *s, Err *e);
    int own_file; /* r->file is no GGUF file: load reads it */
    /* inv_freq[sets][P], and the amplitude of cos and sin. Required. */
    int (*freqs)(const Rope *r, int length, double *inv_freq, double *amplitude, Err *e);
    /* The length whose table holds for the query at pos, growing with pos: when it changes, keys
     * in the cache are turned again. NULL: one table for all. */
    int (*length)(const Rope *r, int pos);
    /* Real position of token t. NULL: pos_shift + pos_scale * t. */
    double (*position)(const Rope *r, int t);
    int parts;    /* 2: keys and queries have tables of their own; 3: copies of queries, too */
    int per_head; /* a table for each key head */
    /* What (a, b) is turned by: (a c - b s, a s + b c). NULL: c = cos, s = sin of p inv_freq[j]. */
    void (*turn)(const RopeAt *at, double *c, double *s);
    /* A linear map of a head's D values before the pairs turn, of queries and keys alike. What a
     * probe sees before rotation is mapped: the pairs that turn are those of the mapped values. */
    void (*mix)(const Rope *r, int kh, float *x);
    /* angle[n][P] of the tokens of a batch from their hidden state, once per key head. */
    void (*angles)(const RopeCall *c, int kh, double *angle);
    /* Looks at the hidden state of a batch, once per key head, before anything is turned. */
    void (*observe)(const RopeCall *c, int kh);
    /* Token i of the batch changes the n_t keys [n_t][D] before its own. Not with --kv f16. */
    void (*update)(const RopeCall *c, int kh, int i, float *key, int n_t);
    int (*work)(const Rope *r);    /* floats of RopeCall.work per token */
    int (*memory)(const Rope *r);  /* doubles of RopeCall.memory */
    int (*history)(const Rope *r); /* doubles of RopeCall.history per token */
    /* Adds to the scaled scores of query head h at pos over the n_t keys from t0 on. */
    void (*bias)(const Rope *r, int h, int pos, int t0, int n_t, float *score);
    /* The same, from what is known of the layer and h's key head; c ends with the token at pos. */
    void (*fade)(const RopeCall *c, int h, int pos, int t0, int n_t, float *score);
    double (*q_scale)(const Rope *r, int pos); /* times the query, all D values */
    int (*part)(const Rope *r, int h);         /* ROPE_Q or ROPE_Q_COPY of attention head h */
} RopeKind;

enum { ROPE_FACTOR = 1, ROPE_ORIGINAL = 2, ROPE_NEEDS_FACTOR = 4 | ROPE_FACTOR };
enum { ROPE_EVEN, ROPE_HEADS, ROPE_READ }; /* Rope.uneven */

struct Rope {
    const RopeKind *kind;
    RopeParams p;
    int n_pairs, layout; /* in the file: ROPE_ADJACENT or ROPE_HALF */
    int sets;            /* of frequencies: 1, or one per key head */
    int uneven; /* pair j at position p does not turn by p * inv_freq[j] in all heads: the angles of
                 * key heads differ, or depend on what was read; ROPE_HEADS, ROPE_READ */
    double amplitude;
    double *inv_freq;         /* [sets][P] angle per position, radians */
    float *w[ROPE_WEIGHTS];   /* the kind's own, owned; NULL: none */
    size_t n_w[ROPE_WEIGHTS]; /* floats in each */
    double *positions;        /* [n_positions] the kind's own, owned; NULL: none */
    int n_positions;
    char *file; /* p.file, owned */
    int table;  /* first of its tables of angles in a State */
};

const RopeKind *rope_find(const char *name); /* NULL if there is no such kind */
const RopeKind *rope_at(int i);              /* the registry; NULL at the end */
/* The defaults of everything but the shape: a head of head_dim values, all rotated, one layer. */
RopeParams rope_params(int head_dim, double base);
/* "KIND" or "KIND:key=value,...": the kind, and p changed as it says. Keys are base, n_rot,
 * pos_scale, pos_shift, file, those of kind->common (factor, original) and kind->args. */
int rope_parse(const char *spec, RopeParams *p, const RopeKind **kind, Err *e) MUST_USE;
/* Key i of a kind, as rope_parse takes them; 0 when there are no more. In *k, words is NULL and the
 * range is NAN for the name of a file. */
int rope_key(const RopeKind *kind, int i, RopeArg *k);
int rope_whole(const RopeKind *kind, const char *key); /* does it take whole numbers alone? */
/* The same in one canonical text: every key that is not at its default, base always. */
void rope_text(const Rope *r, char *buf, size_t size);
/* The encoding of one layer, as a file asks for it. */
typedef struct {
    const RopeKind *kind;
    RopeParams p;
} RopeSpec;

enum { ROPE_SPEC = 512 }; /* bytes of a text in a file, with its end */

/* rope_parse of a text from a file: `where` comes first in messages. */
int rope_read(const char *where, const char *text, RopeSpec *s, Err *e) MUST_USE;

/* rope/file.c: the keys of a GGUF file. */
typedef struct {
    const Gguf *g;
    const char *arch; /* its keys begin with this and a point */
    int n_layers;
    const int *local; /* [n_layers] 1: the layer sees a window only */
    /* As in Arch: local_base and nope_every unless the file says it; mixed: its models have layers
     * with and without a window. */
    double local_base;
    int local_scaling, mixed, nope_every, untuned_nope;
} RopeFile;

/* spec[n_layers], whose params come with defaults: base, n_rot and n_ctx_orig as the file says. */
int rope_file_shape(const RopeFile *f, RopeSpec *spec, Err *e) MUST_USE;
/* Then the kind, and its numbers. What cannot be obeyed is refused. */
int rope_file_kind(const RopeFile *f, RopeSpec *spec, Err *e) MUST_USE;

/* A tensor of one row that is in no GGUF file. */
typedef struct {
    const char *name; /* as rope_tensor asks for it */
    float *v;
    int n;
} RopeList;

/* rope/config.c: config.json of a Hugging Face checkpoint. */
typedef struct {
    char spec[ROPE_SPEC]; /* as rope_parse takes it */
    RopeList list[2];
} ConfigRope;

enum { CONFIG_ROPES = 8 };
typedef struct {
    ConfigRope rope[CONFIG_ROPES]; /* n different ones */
    int n;
    int *of_layer; /* [n_layers] index into rope */
} RopeConfig;

/* For a model of that many layers and values per head. On -1 c holds nothing. */
int rope_config_open(RopeConfig *c, const char *path, int n_layers, int head_dim, Err *e) MUST_USE;
/* The same over a text; path is used in messages only. */
int rope_config_parse(RopeConfig *c, const char *path, Str json, int n_layers, int head_dim,
                      Err *e) MUST_USE;
void rope_config_free(RopeConfig *c);

/* s: where to look for tensors besides p->file; NULL: nowhere. */
int rope_new(Rope *r, const RopeKind *kind, const RopeParams *p, int layout, RopeSource *s,
             Err *e) MUST_USE;
void rope_free(Rope *r);
/* For kind->load: tensor blk.LAYER.name (or, for all layers alike, name) as cols * rows floats that
 * become r->w[i]. 1 found, 0 absent, -1 of another shape. */
int rope_tensor(RopeSource *s, Rope *r, int i, const char *name, int64_t cols, int64_t rows,
                Err *e);
/* A tensor of a kind with several, for rope_load_parts. */
typedef struct {
    int w; /* place in Rope.w */
    const char *name;
    int64_t cols, rows; /* rows 0: not of this setting */
    double size;        /* standard deviation of random weights */
} RopePart;

/* All n tensors of the setting, or none of them; with a seed above 0 none may be there, and weights
 * are drawn, others for each layer. */
int rope_load_parts(Rope *r, RopeSource *s, const RopePart *part, int n, uint64_t seed,
                    Err *e) MUST_USE;
double rope_uniform(uint64_t *state); /* [-1, 1), 53 bits of rng_next */
/* The two members of pair j within a head, as forward has them: 2 j and 2 j + 1. */
void rope_pair(const Rope *r, int j, int *a, int *b);
/* Where value c of a head, as forward has it, comes from: the row of the head in the file, and in a
 * checkpoint of Hugging Face. */
int rope_row(const Rope *r, int c);
int rope_hf_row(const Rope *r, int c);
/* p-RoPE (arXiv:2410.06205): of P pairs the floor(keep P) of highest frequency turn as before, the
 * theta of the others becomes 0. keep in [0, 1]. */
void rope_keep(Rope *r, double keep);

/* Maps one head x[head_dim] as forward does for a token at pos, before any `update` or `angles`;
 * part: ROPE_K ...; angles: room for 2 P floats. */
void rope_apply(const Rope *r, int part, int kh, float *x, int pos, float *angles);
/* The same with the frequencies and the length of a later query, as keys in the cache have them. */
void rope_apply_at(const RopeAt *at, float *x, int pos, float *angles);
/* What is left to do when cos[P], sin[P] of the position are known, as of kinds with `angles`. */
void rope_turn(const Rope *r, int part, int kh, float *x, int pos, const float *angles);
double rope_position(const Rope *r, int t); /* real position of token t */

/* run.c, then rope/: one row each. */
extern const RopeKind rope_plain;
extern const RopeKind rope_none;
extern const RopeKind rope_linear;
extern const RopeKind rope_ntk;
extern const RopeKind rope_dynamic;
extern const RopeKind rope_by_parts;
extern const RopeKind rope_yarn;
extern const RopeKind rope_llama3;
extern const RopeKind rope_longrope;
extern const RopeKind rope_partial;
extern const RopeKind rope_proportional;
extern const RopeKind rope_p_rope;
extern const RopeKind rope_rope_id;
extern const RopeKind rope_fope_clip;
extern const RopeKind rope_fope;
extern const RopeKind rope_local;
extern const RopeKind rope_nope_layers;
extern const RopeKind rope_continuous;
extern const RopeKind rope_alibi;
extern const RopeKind rope_xpos;
extern const RopeKind rope_hope;
extern const RopeKind rope_pp;
extern const RopeKind rope_selective;
extern const RopeKind rope_comrope;
extern const RopeKind rope_lie;
extern const RopeKind rope_path;

/* For RopeKind.params of kinds that stretch a trained context: a factor in (0, 1e6], and n_ctx_orig
 * of at least 1, which is n_ctx_train if it is not known. */
int rope_stretch(const char *kind, RopeParams *p, Err *e);
/* The same for kinds whose argument `arg` is their factor: if it is not given, p->factor, or if
 * that is 1 (the file has none) n_ctx_train / n_ctx_orig. */
int rope_settle_factor(const char *kind, RopeParams *p, int arg, Err *e);
/* keep w + (1 - keep) w / s: exactly w for s = 1 or keep = 1, exactly w / s for keep = 0. */
double rope_slowed(double w, double s, double keep);

/* ---------------------------------------------------------------- run.c: model */

/* What models of different architectures differ in; a row of flags, and no code of its own. */
enum { NORM_RMS, NORM_LAYER, NORM_UNIT }; /* x / rms(x); (x - mean) / std; that without weights */
/* Where the feed-forward network reads: from the stream after attention; beside it, through the
 * norm of attention; beside it, through a norm of its own. */
enum { RES_SEQUENTIAL, RES_SHARED_NORM, RES_TWO_NORMS };
/* Queries and keys before rotation: each head by the same weights, by its own, all together. */
enum { QK_PLAIN, QK_HEAD, QK_OWN, QK_ALL };
/* What a file has besides the matrices of every layer; a bit each. */
enum {
    HAS_PRE_NORM = 1,      /* attn_norm */
    HAS_FFN_NORM = 2,      /* ffn_norm */
    HAS_POST_NORMS = 4,    /* post_attention_norm, post_ffw_norm */
    HAS_QK_NORM = 8,       /* attn_q_norm, attn_k_norm */
    HAS_GATE = 16,         /* ffn_gate, or gate and up in one matrix */
    HAS_NORM_BIAS = 32,    /* biases of norms */
    HAS_ATTN_BIAS = 64,    /* attn_output.bias */
    HAS_QKV_BIAS = 128,    /* biases of q, k and v */
    HAS_OUTPUT_BIAS = 256, /* output.bias */
    HAS_SHARED = 512,      /* an expert that every token takes, and its gate */
    HAS_OUTPUT = 1024,     /* output.weight: the embedding is not used twice */
    HAS_FFN_BIAS = 2048,   /* ffn_up.bias, ffn_down.bias, and ffn_gate.bias if there is a gate */
};
/* How layers with a window turn where the file scales its angles: like the others, unless they have
 * a base of their own; like the others; never scaled. */
enum { LOCAL_BY_BASE, LOCAL_SCALED, LOCAL_PLAIN };
/* Layers of experts: not known there; weighted by the softmax over all experts; by that divided by
 * its sum over the chosen ones. The file may say which of the two. */
enum { EXPERTS_NONE, EXPERTS_PLAIN, EXPERTS_NORMED };

/* One row per architecture: what the file does not say. */
typedef struct {
    const char *name; /* general.architecture */
    int layout;       /* ROPE_ADJACENT or ROPE_HALF */
    double rope_base; /* when the file has no rope.freq_base */
    int norm, act, residual;
    int experts;        /* EXPERTS_... */
    unsigned has, may;  /* HAS_...: in every file; in all layers of some files (biases of matrices:
                         * in any file) */
    int qk_norm;        /* QK_...; QK_PLAIN: as the shape of attn_q_norm says */
    int embd_sqrt;      /* embeddings are multiplied by sqrt(E) */
    int logits_divided; /* logit_scale is a divisor, and must be there */
    double attn_cap, final_cap; /* unless the file has others; 0: none */
    int window;                 /* keys, unless the file has another; 0: none */
    int window_every;           /* the last of so many layers has no window; 0: all have the same */
    int wide_layers;            /* a model of so many layers has scores by 1 / sqrt(E / H) */
    double local_base;          /* rope_base of layers with a window; 0: as the others */
    int local_scaling;          /* LOCAL_...: of their angles */
    int nope_every;             /* the last of so many layers does not turn; 0: all turn */
    int untuned_nope;           /* no layer turns if rope.scaling.finetuned is false */
    int hf_adjacent;            /* pairs are adjacent in Hugging Face's checkpoints */
} Arch;

/* One layer: its own shape, then its tensors (NULL: absent). */
typedef struct {
    int n_heads, n_kv_heads, n_ff; /* n_heads attention heads */
    int n_q_heads, n_o_heads; /* heads that are projected, that the output matrix has columns for:
                               * fewer where an encoding makes copies */
    int window;               /* keys visible to a query, itself included; 0 = all */
    int rope;                 /* index into Model.rope */
    const float *attn_norm, *attn_norm_bias, *ffn_norm, *ffn_norm_bias;
    const float *post_attn_norm, *post_ffn_norm; /* of a branch's output */
    const float *q_norm, *k_norm;                /* [D], [H D], pairs adjacent */
    int qk_norm;                                 /* QK_... */
    const Tensor *wq, *wk, *wv, *wo, *w_gate, *w_up, *w_down;
    const float *bq, *bk, *bv, *bo, *b_gate, *b_up, *b_down; /* rows of the file */
    int surplus; /* the file has as many heads of q, k and v again, which are not used (0) */
    /* A mixture of experts: n_ff, w_gate, w_up and w_down are those of the shared expert (0, NULL:
     * there is none). */
    int n_expert, n_used, n_ff_exp;                /* X, U and their width; X = 0: no mixture */
    const Tensor *router;                          /* [X][E] in floats */
    const Tensor *gate_exps, *up_exps, *down_exps; /* [X] matrices */
    const float *shared_gate;                      /* [E] */
} Layer;

typedef struct {
    Gguf g;
    const Arch *arch;
    unsigned has; /* HAS_...: tensors that this file must have, see Arch.may */
    int n_layers, n_embd, n_vocab, head_dim, n_ctx_train;
    int max_heads, max_kv_heads, max_ff; /* over the layers */
    int n_expert, max_used, max_ff_exp;  /* of layers with experts; 0: there are none */
    int experts_normed;                  /* see EXPERTS_NORMED */
    double expert_scale;                 /* times the weights of the experts (1) */
    float norm_eps, score_scale;
    double embd_scale, residual_scale, logit_scale; /* factors; 1: none */
    double attn_cap, final_cap;                     /* x becomes cap tanh(x / cap); 0: not */
    double clamp;                                   /* |q|, |k|, |v| at most; 0: any */
    int residual;                                   /* RES_... */
    const Tensor *tok_embd, *output;                /* output == tok_embd when tied */
    const float *output_norm, *output_norm_bias, *output_bias;
    Tensor **views; /* [n_views] parts of tensors, one or more each, owned */
    int n_views;
    Layer *layer;          /* [L] */
    Rope *rope;            /* [n_ropes] */
    int n_ropes, n_tables; /* tables of angles of all of them */
    char *config_rope;     /* --rope FILE.json, and the encodings that it put in force; or NULL */
    float **owned;         /* vectors that had to be widened to float32 */
    int n_owned;
    uint64_t n_params, n_active; /* all, and those that one token meets */
    float *read_share;           /* [g.n_tensors] the part that one token meets: 1, or U / X */
} Model;

/* Options that override the file. Zero-initialise for none. */
typedef struct {
    const char *rope;        /* KIND[:key=value,...], NULL = as the file says */
    const char *rope_layers; /* only in these layers, "4-8"; NULL = all */
    double rope_factor;      /* context scaling, 0 = as the file says */
    int truncate;            /* p-RoPE: only the fraction rope_keep of the pairs turns */
    double rope_keep;
    /* 1: a query sees `window` keys (0: all), in the layers that have a window; in a model without
     * one, in all layers. */
    int windowed, window;
} ModelOptions;

/* What an analysis needs to know of a model when there is no file of weights. */
typedef struct {
    const char *arch; /* a name, copied */
    int norm;         /* NORM_... */
    int n_layers, head_dim, n_ctx_train;
    const Layer *layer; /* [L] n_heads, n_kv_heads, window and rope are used */
    Rope *rope;         /* [n_ropes] allocated; the model takes it over */
    int n_ropes;
} ModelShape;

Model *model_skeleton(const ModelShape *s); /* a model without tensors: nothing can run it */
void skeleton_free(Model *m);

int model_open(Model *m, const char *path, const ModelOptions *opt, Err *e) MUST_USE;
/* Takes over an open g (closed with the model, and on error). */
int model_bind(Model *m, Gguf *g, const ModelOptions *opt, Err *e) MUST_USE;
void model_close(Model *m);

/* ---------------------------------------------------------------- run.c: state and forward */

enum { PROBE_QK = 1, PROBE_ATTN = 2, PROBE_RESID = 4 };
enum { BEFORE_ROPE, AFTER_ROPE };

/* One query's row of attention over the keys t0 .. pos, n_t = pos - t0 + 1 of them. */
typedef struct {
    int l, h, kh, pos, t0, n_t;
    const float *q, *k;   /* [D] after rotation: the query, and the key of the same token */
    const float *scores;  /* [n_t] scaled, before softmax */
    const float *weights; /* [n_t] after softmax */
    const float *out;     /* [D] sum of weight * v; NULL where v is not known */
} AttnRow;

/* An observer. q, k and attn are called once per head and batch, heads in parallel, batches in
 * order: keep state per (l, h). What is shown must not be changed. In an edited run (State.edit) q
 * and k are shown as they were computed, before the edit; the row of attention, its q and k too,
 * and the residual stream are those of the edited run. */
typedef struct Probe {
    unsigned want; /* PROBE_... */
    void *ctx;
    /* q[i * stride + c]: query of head h at position pos + i, i < n, c < D, pairs adjacent. */
    void (*q)(void *ctx, int l, int h, int stage, int pos, int n, const float *q, size_t stride);
    void (*k)(void *ctx, int l, int kh, int stage, int pos, int n, const float *k, size_t stride);
    /* Positions ascend for each head; q and k of the batch have been shown before. */
    void (*attn)(void *ctx, const AttnRow *row);
    /* Residual stream x[i * stride + c], c < E, after layer l; called by one thread. */
    void (*resid)(void *ctx, int l, int pos, int n, const float *x, size_t stride);
} Probe;

/* One value of a head, and what takes its place. */
typedef struct {
    int c; /* < D, pairs adjacent */
    float v;
} Patch;

typedef struct {
    Patch *patch;
    int n;
} HeadEdit;

/* A declared change of attention: values of queries and keys that are replaced after rotation,
 * before scores are computed and keys are cached. To drop a pair from the logits of a head is to
 * replace both its values of q by 0: the keys are shared by the heads of a group. Off by default;
 * whoever sets it says so in every output. */
typedef struct {
    const Model *m;
    HeadEdit *q, *k; /* [L][max_heads], [L][max_kv_heads] */
    long n;          /* values replaced, over all heads */
} Edit;

Edit *edit_new(const Model *m); /* changes nothing yet; m must outlive it */
void edit_free(Edit *e);
void edit_q(Edit *e, int l, int h, int c, float v);  /* value c of query head h becomes v */
void edit_k(Edit *e, int l, int kh, int c, float v); /* value c of key head kh becomes v */
uint64_t edit_hash(const Edit *e); /* of every replacement, in their order; NULL: 0 */

/* One thread of the team that runs `forward`. */
typedef struct {
    _Alignas(64) float *scratch; /* score rows, unpacked weight rows and keys */
    uint32_t loop;               /* the shared loop this thread is at, from 0 */
    uint32_t due;                /* pieces of all loops it has been through */
} Worker;

/* Who takes the next piece of a shared loop; one cache line each. */
typedef struct {
    _Alignas(64) _Atomic int next;
} Loop;

/* Pieces done in this forward pass, and the threads asleep until there are more. */
typedef struct {
    _Alignas(64) _Atomic uint32_t done;
    _Atomic int sleepers;
} Progress;

/* The frequencies of one encoding in a State: they may change with the length. */
typedef struct {
    int length;
    double amplitude;
    double *inv_freq; /* [sets][P] */
} RopeNow;

/* One timeline of one model: KV cache and every buffer forward needs; one allocation. */
typedef struct {
    const Model *m;
    const Kernels *k;
    const Probe *probe; /* or NULL */
    const Edit *edit;   /* or NULL; to be set while the cache is empty */
    int n_ctx, n_batch, n_threads;
    int exact; /* 1: quantized weights times float activations; 0: int8 activations */
    int int8;  /* not exact, and there are quantized weights */
    int pos;   /* tokens in the cache */
    void *mem;
    float *x, *xo, *xb;          /* [N][E] residual stream, branch output, normalised x */
    float *q, *kx, *v, *att_out; /* [N][H D], [N][K D], [N][K D], [N][H D] */
    float *ff_up, *ff_gate;      /* [N][F], of experts [N U][n_ff_exp] */
    Q8 *xq;                      /* [N][xq_stride]: the input of the next matmul in int8 */
    size_t xq_stride;            /* widest input / 32 */
    float *cos, *sin;            /* [n_tables][N][P] of this batch's positions */
    int max_pairs;               /* over the ropes */
    RopeNow *now;                /* [n_ropes] the frequencies in force */
    double *now_freq;            /* what they point into */
    float *raw_keys;             /* like k_cache, before rotation; NULL: never needed again */
    double *rope_angles;         /* [K][N][P] of the layer at work */
    float *rope_work;            /* [K][N][..] and [L][K][..]: see RopeCall */
    double *rope_memory, *rope_history; /* history: [L][K][n_ctx][..] */
    /* Per token of a key head, per key head of a layer, in all; per token of a key head. */
    size_t work_stride, memory_stride, n_memory, history_stride;
    int kv_type;                /* T_F32 or T_F16 */
    uint8_t *k_cache, *v_cache; /* [L][K][n_ctx][D] of kv_type (K of the widest layer) */
    float *logits;              /* [N][V], the rows asked for from row 0 */
    float *scratch;             /* [n_threads][scratch_floats] */
    size_t scratch_floats;
    Worker *worker; /* [n_threads] */
    Loop *loop;     /* [n_loops] of one forward pass */
    size_t n_loops;
    Progress *progress;
    /* A layer of experts: each token is U rows, sorted by expert. */
    float *route;                 /* [N][X] logits, then probabilities */
    int *pick;                    /* [N][U] experts of a token, ascending */
    float *pick_weight;           /* [N][U] */
    int *pick_row, *expert_start; /* [N][U] row of a pick; [X + 1] first row of an expert */
    int *expert_taken;            /* [X] those that some token takes; -1: no more */
    float *expert_x;              /* [N U][E] input, then output */
    Q8 *expert_q;                 /* [N U][expert_stride] what meets the next matrix in int8 */
    size_t expert_stride;
} State;

typedef struct {
    int n_ctx, n_batch, n_threads, exact; /* 0: the default */
    int kv_type;                          /* T_F32 (0, the default) or T_F16 */
    const char *isa;                      /* NULL: pick */
} StateOptions;

int state_new(State *s, const Model *m, const StateOptions *opt, Err *e) MUST_USE;
void state_reset(State *s); /* forget all tokens */
void state_free(State *s);

/* Runs n tokens (1 <= n <= n_batch, ids < V, s->pos + n <= n_ctx) and appends them to the cache.
 * Leaves the logits of the last n_logits of them (0 .. n) in s->logits[0 .. n_logits-1][V].
 * The bits do not depend on n, on threads, on the instruction set, nor on a probe. */
void forward(State *s, const int *tok, int n, int n_logits);

/* Key t of key head kh as the next query would meet it: a copy in k[D]. */
void state_key(const State *s, int l, int kh, int t, float *k);
/* What the encoding of layer l adds to the scaled score of head h, of the last token run and key
 * t. */
double state_bias(const State *s, int l, int h, int t);

/* "0,3,5-7" of n things: on[i] becomes 1; all of them for NULL. The option is named in errors. */
int list_parse(const char *option, const char *list, int n, uint8_t *on, Err *e) MUST_USE;
uint64_t hash_bytes(const void *p, size_t n); /* FNV-1a, 64 bit: for logits hashes */

/* ---------------------------------------------------------------- tokenizer.c */

typedef struct {
    int *id;
    size_t n, cap;
    size_t left_out; /* bytes of the texts encoded that have no token */
} Tokens;            /* growable; zero-initialise; free(t.id) */

void tokens_add(Tokens *t, int id);

/* Length of the UTF-8 sequence that begins at s; 0 if the n >= 1 bytes are the beginning of one;
 * -1 if no sequence begins so (The Unicode Standard, table 3-7). */
int utf8_len(const char *s, size_t n);

typedef struct Tokenizer Tokenizer;

/* From the metadata of any GGUF, also one without tensors, which has to outlive the tokenizer.
 * pre overrides tokenizer.ggml.pre (NULL: as the file says). NULL on error. */
Tokenizer *tok_new(const Gguf *g, const char *pre, Err *e) MUST_USE;
void tok_free(Tokenizer *t);

int tok_n_vocab(const Tokenizer *t);
int tok_bos(const Tokenizer *t);     /* -1: none */
int tok_eos(const Tokenizer *t);     /* -1: none */
int tok_add_bos(const Tokenizer *t); /* does the file ask for BOS before a text? */
int tok_add_eos(const Tokenizer *t);
int tok_is_eog(const Tokenizer *t, int id);     /* ends generation: eos, eot, eom, … */
int tok_is_special(const Tokenizer *t, int id); /* control or unknown: not text */
const char *tok_model(const Tokenizer *t);      /* "llama" or "gpt2" */
const char *tok_pre(const Tokenizer *t);        /* pre-tokenizer in force; "" for llama */
Str tok_text(const Tokenizer *t, int id);       /* as written in the file */

/* Appends the ids of n bytes of text. special: are control tokens in the text recognised?
 * Adds no BOS or EOS. O(n log n); any bytes are accepted. 0, or -1 if a piece has no token and
 * the vocabulary has no way to spell it (gpt2: a byte without a token is left out). */
int tok_encode(const Tokenizer *t, const char *text, size_t n, int special, Tokens *out,
               Err *e) MUST_USE;

/* Ids to text, streaming. Only whole UTF-8 sequences come out: a tail is held back until it is
 * complete, and what can never be is shown as U+FFFD. Zero-initialise, then set t. */
typedef struct {
    const Tokenizer *t;
    int special; /* show control tokens by their text? */
    int n_seen;  /* tokens shown so far; set it to 1 to continue a text: the first, if it is text,
                  * loses the space that encoding added */
    char held[4];
    int n_held;
} Decoder;

void tok_decode(Decoder *d, int id, Bytes *out); /* appends */
void tok_decode_end(Decoder *d, Bytes *out);     /* flushes the tail */
/* The raw bytes of one token, appended; nothing held back. */
void tok_bytes(const Tokenizer *t, int id, Bytes *out);

/* ---------------------------------------------------------------- analysis.c */

#define FIRST_TOKENS 64 /* of the first window, kept and shown as they are */

/* Thresholds, all settable, printed in every report. */
typedef struct {
    int n_skip;          /* leading tokens of each window left out of means (sinks): 1 */
    double strong_ratio; /* r_q r_k over the head's median pair: 20 */
    double strong_r;     /* least concentration R of q and of k: 0.95 */
    double sink_eps;     /* 0.3 */
    int sink_t;          /* 64 */
    double n_ctx;        /* P, the trained context of x = theta P; 0: as the file says */
    const char *isa;     /* kernels; they do not change a bit. NULL: as kernels_pick */
    /* Massive values: norm over the mean channel of the head (5). Massive activations: |h| above
     * act_min (100) and above act_ratio (1000) times the median of the state. */
    double massive_ratio, act_min, act_ratio;
} AnalysisOptions;

AnalysisOptions analysis_defaults(void);

/* How a reading was made; printed with it. Strings are not owned. */
typedef struct {
    const char *model_path, *text_path, *bos_policy, *isa;
    char model_sha256[65], text_sha256[65];
    uint64_t model_bytes;
    int n_ctx, bos_id, exact, n_threads;
    uint64_t n_tokens, n_windows;
    int interrupted;             /* the text was not read to its end */
    const char *rope_override;   /* --rope KIND: not what the file says; NULL: as the file says */
    const char *pre_override;    /* --pre NAME, or NULL */
    const char *window_override; /* --window N, in words; NULL: as the file says */
    const char *edits;           /* an edited run: what was changed, in a clause; NULL: nothing */
    uint64_t edit_hash;          /* of every value replaced: edit_hash() */
    int text_cut;                /* -n left out the rest of the text */
    size_t bytes_left_out;       /* bytes of the text without a token */
    const struct Activations *files;        /* q and k are from files, no model was run; or NULL */
    const char *kv;                         /* type of the cached keys and values: "f32" or "f16" */
    uint64_t n_text_tokens, n_text_windows; /* of the whole text, without BOS */
    int incomplete;                         /* closed windows are all there is, and some miss */
    /* Texts of the first tokens of the first window. */
    const char *const *token_text;
    int n_token_text;
    uint64_t generated; /* tokens at the end that the model generated, in n_tokens too */
    const char *generated_text, *sampling; /* what they say; how they were chosen; or NULL */
} Provenance;

typedef struct Analysis Analysis;

Analysis *analysis_new(const Model *m, const AnalysisOptions *o); /* m must outlive it */
void analysis_free(Analysis *a);
const Probe *analysis_probe(const Analysis *a); /* attach to State.probe */
void analysis_window(Analysis *a);              /* a new window (document) begins at position 0 */
/* The window that begins next has this number, not the one after the last. */
void analysis_seek(Analysis *a, uint64_t window);
int analysis_has(const Analysis *a, uint64_t window); /* is it among the closed windows? */
uint64_t analysis_closed(const Analysis *a, uint64_t *n_tokens); /* how many, and their tokens */
/* The windows of 0 .. n_windows - 1 that are not among them, in words. */
void analysis_missing(const Analysis *a, uint64_t n_windows, char *buf, size_t size);
/* The next n tokens of the window, before they are run; without it, no duplicate-token scores. */
void analysis_tokens(Analysis *a, const int *id, int n);

/* Where a report is read. Zero, like NULL, is a file: Unicode, no colour, 100 columns. */
enum { COLOR_NONE, COLOR_8, COLOR_256, COLOR_TRUE };
typedef struct {
    int color;   /* COLOR_... */
    int width;   /* columns: of text 40 .. 96, of tables 80 .. 200 */
    int ascii;   /* nothing but ASCII */
    int verbose; /* every head, not the notable ones alone */
} Screen;

/* The reading, as a report for people: a map, tables, findings in words. */
void analysis_print(const Analysis *a, const Provenance *p, FILE *f, const Screen *s);
/* The same as data: the bytes do not depend on threads, batch or instruction set. JSON with every
 * (layer, head, pair); CSV (RFC 4180) with a row for each of them, or for each head. */
void analysis_json(const Analysis *a, const Provenance *p, FILE *f);
void analysis_csv(const Analysis *a, const Provenance *p, FILE *f);
void analysis_csv_heads(const Analysis *a, const Provenance *p, FILE *f);
/* NumPy arrays of double, [L][H][P] or shorter, NaN where a layer has fewer heads or pairs, and
 * manifest.json that describes them. */
int analysis_npy(const Analysis *a, const Provenance *p, OutDir *d, Err *e) MUST_USE;

/* The theory alone: what follows from the frequencies of every encoding of m, and from the biases
 * of its queries and keys, if it has some. A Model of ropes alone will do. */
typedef struct {
    double n_ctx; /* P; 0: as analysis_new finds it */
    double eps;   /* in Liu's bounds (arXiv:2602.10959), in (0, 1) */
} BoundsOptions;

void bounds_print(const Model *m, const BoundsOptions *o, const Provenance *p, FILE *f,
                  const Screen *s);
void bounds_json(const Model *m, const BoundsOptions *o, const Provenance *p, FILE *f);

/* Prediction against observation: does each judged bound hold for the strong pairs? */
typedef struct {
    unsigned judged;  /* bit i: bound i of F1 F2 T3 B1 B2 B3 B4 */
    double tolerance; /* largest share of exceptions among the pairs that a bound is asked of */
} CheckOptions;

enum { CHECK_HOLDS, CHECK_EXCEPTIONS, CHECK_NOTHING }; /* the exit status of the program */

/* list: "F1,B3", "all", or NULL for the default. */
int check_options(CheckOptions *c, const char *list, double tolerance, Err *e) MUST_USE;
/* Both return CHECK_... ; CHECK_NOTHING: there was nothing that could be judged. */
int check_print(const Analysis *a, const Provenance *p, const CheckOptions *c, FILE *f,
                const Screen *s);
int check_json(const Analysis *a, const Provenance *p, const CheckOptions *c, FILE *f);

/* Explaining one logit: query and key of one head, taken apart. */
typedef struct {
    int l, h, query, key; /* positions; negative ones count from the end */
    int pair;             /* one pair in full detail; -1: none */
} Logit;

typedef struct Explain Explain;

/* Checks that a model has this logit in a text of n_tokens, and counts positions from the
 * beginning. */
int logit_resolve(const Model *m, int n_tokens, Logit *at, Err *e) MUST_USE;
Explain *explain_new(const Model *m, const Logit *at); /* of a resolved logit; m must outlive it */
void explain_free(Explain *x);
const Probe *explain_probe(const Explain *x);
/* After the forward pass whose last token is the query, over s with this probe. Ids and texts of
 * the tokens up to the query are not owned. */
void explain_end(Explain *x, const State *s, const int *id, const char *const *text);
void explain_print(const Explain *x, const Provenance *p, FILE *f, const Screen *s);
/* Every number in full: schema ropescope.explain/1. */
void explain_json(const Explain *x, const Provenance *p, FILE *f);

/* ---- interventions */

/* Layers and attention heads of a model that an edit is allowed to touch. In the same model with
 * another encoding, which may make more heads of fewer projected ones, they are those of the same
 * projected heads. */
typedef struct {
    const Model *m;
    const char *layers, *heads; /* as asked for, "4-8"; NULL: all */
    uint8_t *layer, *head;      /* [L], [max_heads]: 1 if chosen */
} Selection;

enum { PAIRS_PARTIAL, PAIRS_HALF, PAIRS_FULL, PAIRS_CANDIDATES, PAIRS_LISTED };

/* A choice of rotary pairs of query heads. free(on). */
typedef struct {
    int n_heads, n_pairs; /* of a layer, of a head: the most */
    uint8_t *on;          /* [L][n_heads][n_pairs] */
    long n, heads;        /* pairs chosen; heads that have one */
    int any, forced; /* a control: drawn from all pairs; with no choice, as there were no more */
} Pairs;

/* Of each selected head: the pairs that turn and have x <= 2 pi, x <= pi, x > 2 pi; the offset
 * candidates of what a has observed; or the numbers j with listed[j]. */
Pairs pairs_pick(const Analysis *a, const Selection *s, int which, const uint8_t *listed);
/* The control: as many pairs of each head as `like` has, drawn without replacement from its
 * full-cycle pairs that `like` leaves alone; where some head has too few of these, those of every
 * head are drawn from all its pairs. The draw of a head depends on the seed and its place alone. */
Pairs pairs_control(const Analysis *a, const Pairs *like, uint64_t seed);
/* Both values of these pairs become 0 in q: they add nothing to any logit. */
Edit *edit_drop(const Model *m, const Pairs *p) MUST_USE;

/* A probe that adds up each value of q and k after rotation, over all tokens. */
typedef struct Channels Channels;
Channels *channels_new(const Model *m);
void channels_free(Channels *c);
const Probe *channels_probe(const Channels *c);
/* Massive values (Jin et al., arXiv:2502.01563): channels whose L2 norm over tokens is above ratio
 * times the mean over the channels of the head. They become their mean over tokens; lowest: as
 * many channels of the smallest norms do instead. A key head is touched if all its query heads are
 * selected. */
Edit *edit_massive(const Channels *c, const Selection *s, double ratio, int lowest) MUST_USE;

/* Attention to the first token: see the reading. */
typedef struct {
    double alpha_1, uniform; /* over whole windows; what equal weights would give */
    double sink_1, sink_eps; /* share of samples whose first t queries give more than eps */
    int n_queries, t;        /* of a whole window; behind sink_1 */
    uint64_t n_samples;
    int n_elsewhere, elsewhere; /* heads with a sink that is another key; the most frequent one */
} Sinks;
Sinks analysis_sinks(const Analysis *a, const Selection *s); /* s NULL: of all heads */

enum { EDITS_NONE, EDITS_PAIRS, EDITS_VALUES, EDITS_ROPE }; /* what n_edited counts */

/* One run of `ablate` over all windows. */
typedef struct {
    const char *name, *edit; /* "drop partial"; "dropping ... from the logits"; not owned */
    int counts, control_of;  /* EDITS_...; the run this is the control of, or -1 */
    long n_edited, n_tokens;
    uint64_t seed; /* of a control */
    double nll, perplexity, perplexity_error;
    double ratio, ratio_error; /* of the perplexity to the unedited one, paired token by token */
    Sinks all, chosen;         /* of all heads, of the selected ones */
} AblationRun;

typedef struct {
    AblationRun *run; /* [n], the first one unedited */
    int n, n_controls;
    uint64_t seed;
    const Selection *sel;
    const char *protocol;
    const char *windows; /* how the text is cut: sentences */
    int first_scored;    /* position in a window */
    AnalysisOptions options;
    Bytes notes; /* sentences, each ended by a zero byte: what was asked for and not possible */
} Ablation;

void ablation_print(const Ablation *b, const Model *m, const Provenance *p, FILE *f,
                    const Screen *s);
void ablation_json(const Ablation *b, const Model *m, const Provenance *p, FILE *f);

/* ---- sweep: a list of encodings at a list of contexts, on one text */

/* What is measured in one cell, besides the bounds; NaN: not measured. Pairs are counted over the
 * query heads; alpha_1 is over whole windows, Sink_1 over their first SWEEP_SINK_T queries. */
enum {
    SWEEP_WINDOWS,
    SWEEP_SCORED, /* tokens */
    SWEEP_NLL,
    SWEEP_PERPLEXITY,
    SWEEP_ERROR, /* standard error of the perplexity */
    SWEEP_ALPHA,
    SWEEP_UNIFORM,
    SWEEP_QUERIES,
    SWEEP_SINK,
    SWEEP_SINK_T,
    SWEEP_SAMPLES,
    SWEEP_P,       /* of x = theta P */
    SWEEP_PAIRS,   /* that turn */
    SWEEP_PARTIAL, /* of these, x <= 2 pi */
    SWEEP_HALF,    /* and x <= pi */
    SWEEP_STRONG,
    SWEEP_CANDIDATES,
    SWEEP_CANDIDATE_HEADS,
    SWEEP_FIGURES
};
enum { SWEEP_BOUNDS = 7, SWEEP_RATES = 6 }; /* hits, of, chance: strong pairs, top pairs */

typedef struct {
    char *asked;        /* as it was asked for, owned; NULL: the encoding of the file */
    char *rope;         /* canonical, owned */
    char rope_hash[65]; /* of all that is in force: weights and the layers' map, too */
    int context, done;
    double figure[SWEEP_FIGURES], bound[SWEEP_BOUNDS][SWEEP_RATES];
} SweepCell;

typedef struct {
    SweepCell *cell; /* [n] encoding by encoding, each at every context, ascending */
    int n, n_contexts;
    const char *protocol;
    const char *windows;     /* how the text is cut: sentences */
    int scored_from;         /* text position; 0: as the windows have it */
    int observed;            /* alpha_1 and what follows it are measured */
    const char *rope_layers; /* --rope-layers, or NULL */
    const Model *m;          /* as the file says */
    Provenance p;
    AnalysisOptions options;
} Sweep;

/* The figures of a, which has seen all windows of the cell. */
void sweep_observe(SweepCell *c, const Analysis *a);
/* Cell i as a line of JSON, appended to out: the same bytes for the same settings. */
void sweep_line(const Sweep *s, int i, Bytes *out);
/* Takes over the cells of this sweep from the lines of a file. *whole: bytes of its whole lines,
 * without one that was cut off at the end. -1: a line is no cell, or of other settings. */
int sweep_read(Sweep *s, const char *path, Str text, size_t *whole, Err *e) MUST_USE;
/* Table and chart of the cells that are done, and what they show, in sentences. */
void sweep_print(const Sweep *s, FILE *f, const Screen *screen);

/* Partial results: closed windows of an analysis as a file. Files of the same run over different
 * windows merge, in any order and grouping, to the bytes of one run over all of them. */
int partial_write(Analysis *a, const Provenance *p, FILE *f, Err *e) MUST_USE;
/* Adds the windows of a file of this very run to a, which has no open window. path is used in
 * messages only. */
int partial_resume(Analysis *a, const Provenance *p, const char *path, const uint8_t *data,
                   size_t size, Err *e) MUST_USE;

/* What files of partial results add up to. Zero-initialise. */
typedef struct {
    Model *m; /* a skeleton, from the first file; NULL: no file yet */
    Analysis *a;
    Provenance p;
    char *first, *config;      /* name of the first file, and what all must have in common */
    char *text[9];             /* strings of p */
    char *token[FIRST_TOKENS]; /* texts of the first tokens */
    uint64_t named_by;         /* first window of the file that p's names are from */
} Partial;

/* After an error x can only be freed. */
int partial_add(Partial *x, const char *path, const uint8_t *data, size_t size, Err *e) MUST_USE;
void partial_free(Partial *x);

/* JSON text and the name of its file, for messages. */
typedef struct {
    const char *path;
    Str json;
} PageFile;

/* Reading JSON. A value is a view of its text; n = 0: there is none. What json_whole has passed can
 * be walked without a check: one object, by the grammar of RFC 8259, at most JSON_DEEP brackets
 * open, and nothing but white space around it. Whether a key occurs twice is for the caller. */
enum { JSON_DEEP = 64 };
int json_whole(const PageFile *in, Err *e) MUST_USE;
Str json_trim(Str j); /* without the white space before it */
/* The next value inside array or object o (there, keys and values take turns), starting at *i = 1;
 * n = 0 at the end. */
Str json_item(Str o, size_t *i);
Str json_member(Str o, const char *key); /* the first of that name */
double json_double(Str v);               /* NaN if it is no number */

/* One self-contained page from the JSON text of analysis_json, that of an ablation and that of
 * checkpoints over training, as demo/emergence.py writes it (json.s = NULL: none). Errors: one of
 * them is not whole or something else; they are of different models, texts or window lengths (of
 * checkpoints, the reading is of none of them); the reading is of an edited run and not alone; f
 * fails. */
int report_html(const PageFile *reading, const PageFile *ablation, const PageFile *emergence,
                FILE *f, Err *e) MUST_USE;

/* Array files. An element is found by its number in the file: the sum of index times stride. */
enum { ARRAY_DIMS = 5 };

typedef struct {
    const struct ArrayType *type;
    int n_dims;
    size_t shape[ARRAY_DIMS], stride[ARRAY_DIMS], n; /* n: all elements */
    const uint8_t *data;
    const uint8_t *map; /* the file; NULL: it belongs to the caller of array_parse */
    size_t size;
} Array;

/* FILE.npy, FILE.safetensors (of one tensor) or FILE.safetensors:NAME. On -1 a holds nothing. */
int array_open(Array *a, const char *path, Err *e) MUST_USE;
/* The same over memory of the caller; path is used in messages only; name may be NULL. */
int array_parse(Array *a, const char *path, const char *name, const uint8_t *data, size_t size,
                Err *e) MUST_USE;
void array_close(Array *a);
double array_at(const Array *a, size_t i); /* i < n */

/* What comes before the values of a .npy file, in C order; descr as "<f4". */
void npy_header(FILE *f, const char *descr, const size_t *shape, int n_dims);

/* One float32 tensor to be written. */
typedef struct {
    const char *name;
    int n_dims;
    size_t shape[ARRAY_DIMS];
    const float *data; /* for the caller's use */
} NamedArray;

typedef struct {
    const char *key, *value;
} Metadata;

/* What comes before the values of a safetensors file. Sorts t by name; the caller writes the values
 * in that order. The same input gives the same bytes. */
void safetensors_header(FILE *f, NamedArray *t, size_t n, const Metadata *meta, size_t n_meta);

/* Queries and keys of any program. Strings are not owned; 0 or NULL: the default. */
typedef struct {
    const char *q, *k;            /* as array_open takes them */
    const char *axes;             /* a letter of lbthd per axis; td or thd */
    const char *pos;              /* a number: the first position (0); or a file of all */
    const char *layout, *rotated; /* half or adjacent, yes or no: required */
    const char *rope;             /* kind (plain) */
    int n_rot;                    /* (the whole head) */
    double base, n_ctx;           /* required */
    double rope_scale, scale;     /* scale: of scores (1 / sqrt D) */
} ActivationOptions;

enum { AXIS_L, AXIS_B, AXIS_T, AXIS_H, AXIS_D, N_AXES };

typedef struct {
    int len[N_AXES];
    size_t step[N_AXES]; /* in elements */
} Grid;

typedef struct Activations {
    ActivationOptions o;
    Array q, k;
    Grid q_grid, k_grid;
    char q_sha256[65], k_sha256[65];
    int rotated;
    int *pos; /* [T] */
    Model *m; /* a skeleton */
} Activations;

int activations_open(Activations *x, const ActivationOptions *o, Err *e) MUST_USE;
void activations_close(Activations *x);
/* Shows one window (b of the axes) to a probe as forward would; attn gets no output (NULL). */
void activations_feed(const Activations *x, int window, const Probe *p, const Kernels *kernels,
                      int n_threads);

/* Two probes, one after the other. c must stay where it is. */
typedef struct {
    Probe probe;
    const Probe *next[2];
} ProbeChain;

const Probe *probe_chain(ProbeChain *c, const Probe *first, const Probe *second);

/* Lists as "0,3-5"; NULL: all. */
typedef struct {
    const char *layers, *heads;
    int n_tokens; /* of the first window; 0: all */
    int pattern;  /* attention, too */
} CaptureOptions;

typedef struct Capture Capture;

/* Takes all its memory at once. NULL on error. */
Capture *capture_new(const Model *m, const CaptureOptions *o, int n_ctx, Err *e) MUST_USE;
const Probe *capture_probe(const Capture *c);
void capture_write(Capture *c, const Provenance *p, FILE *f); /* safetensors; once */
void capture_free(Capture *c);

/* ---- writing: what every report is put together with */

/* Reports have decimal points, whatever the program around us has set. */
locale_t c_numbers(void);
void restore_numbers(locale_t old);

typedef struct {
    FILE *f;
    const char *bold, *dim, *mark, *off; /* ANSI, or "" */
    int color, width, ascii;             /* as in Screen; the width is that of tables */
    int text;                            /* columns of sentences */
} Term;

Term term_of(FILE *f, const Screen *s);
/* One paragraph, wrapped at spaces. bullet: it hangs behind a "-". */
void print_paragraph(const Term *t, int bullet, const char *s);
/* A paragraph of explanation. */
void print_note(const Term *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* v, right-aligned: so many decimals, or (negative) significant digits; "-" for no number. */
void print_cell(FILE *f, int width, int digits, double v);
/* Appends a sentence and a zero byte; prints all sentences, which are freed. */
char *words_of(const char *fmt, va_list ap) PRINTF_LIKE(1, 0); /* owned by the caller */
void say(Bytes *out, const char *fmt, ...) PRINTF_LIKE(2, 3);
void print_said(const Term *t, Bytes *said);
/* "0 .. 3, 5": the marked ones of n. */
void list_runs(const char *marked, int n, char *s, size_t size);

/* A mark on an axis. */
typedef struct {
    double at;
    char label[16];
    int line; /* drawn across the chart */
} Tick;

/* Two curves; the second is drawn in dots where the first is not. */
typedef struct {
    const double *x, *y[2]; /* [n] x ascending; NaN: a gap; y[1] may be NULL */
    int n, rows;
    double lo, hi; /* of y: what is beyond is drawn at the edge */
    const Tick *xtick, *ytick;
    int n_xticks, n_yticks; /* where two fall on one place, the first is written */
} Chart;

void print_chart(const Term *t, const Chart *c);

/* The writers of JSON put a comma before the key: an object begins with something else. */
void json_text(FILE *f, const char *key, const char *s);
/* Nine digits, whole numbers in full; JSON has no NaN and no infinity. */
void json_num(FILE *f, double v);
/* "key":[...]: n numbers, `step` bytes from one to the next. */
void json_column(FILE *f, const char *key, const void *v, size_t step, int n);
void sha256_hex(const void *data, size_t n, char out[65]);
/* JSON string with quotes; invalid UTF-8 becomes U+FFFD. */
void json_str(FILE *f, const char *s, size_t n);

/* ---------------------------------------------------------------- rope/kernel.c */

/* Attention heads of a layer with this encoding: the projected ones, and their copies. */
int rope_heads(const Rope *r);
/* What an encoding makes of distance: K = k + bias is the logit that query head h (of rope_heads)
 * at position distance[i], ascending from 0, has with the key of token 0, where the same query and
 * key have a logit of 1 without any encoding. Both are 1 in the first value of every pair (of every
 * two values that do not turn, likewise) and 0 in the second: plain RoPE has K(D) = mean over the
 * pairs of cos(theta_j D). Done by the hooks, token after token where they carry something over;
 * a kind that looks at the hidden state sees zeros. */
int rope_kernel(const Rope *r, int h, const int *distance, int n, double *k, double *bias,
                Err *e) MUST_USE;
/* Angle per token of every pair, theta[P], and the amplitude, where the context has `length`
 * tokens; of key head 0. */
int rope_rates(const Rope *r, int length, double *theta, double *amplitude, Err *e) MUST_USE;

/* ---------------------------------------------------------------- rope/show.c */

/* What `ropescope rope KIND` is about. */
typedef struct {
    const char *spec;  /* as asked for, or NULL: what the model has */
    const char *model; /* its file; NULL: a shape alone */
    const Model *m;    /* the encodings, layer by layer */
    const Rope *plain; /* what they are shown against */
    int span;          /* largest distance; 0: the context that they are for */
} RopeShow;

void rope_list(FILE *f, const Screen *s); /* every kind of the registry */
void rope_list_json(FILE *f);
int rope_show(const RopeShow *w, FILE *f, const Screen *s, Err *e) MUST_USE;
int rope_show_json(const RopeShow *w, FILE *f, Err *e) MUST_USE;

#endif
