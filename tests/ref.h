/* The reference: a naive forward pass in double that shares no arithmetic with the program, and
 * the random tiny models that both are run on. Include model.h first. */
#ifndef ROPESCOPE_REF_H
#define ROPESCOPE_REF_H

/* n values of one row of any tensor type we read. 0, or -1 for another type. */
int ref_dequant(int type, const uint8_t *row, int n, double *out);
double ref_f16(uint16_t h); /* IEEE binary16 to double, exact */

/* One query and one key, as projected: query head h of layer l at position m, its key at n. */
typedef struct {
    int l, h, m, n;
    const double *q, *k; /* [D] */
} RefPair;

/* How the reference computes. Zero-initialise for plain double. */
typedef struct {
    int int8;  /* activations that meet quantized weights go through 8-bit integers first */
    int flip;  /* negative control: turn every angle the wrong way */
    int quiet; /* do not print why it could not run */
    /* The logits without pair drop_pair of head drop_head of layer drop_layer; 0: all of them. */
    int drop, drop_layer, drop_head, drop_pair;
    int n_still; /* the last pairs, that many, are not rotated */
    /* Another encoding in the place of rotation: what the score is before it is scaled; `see` gets
     * the input x[n][E] of the attention of layer l first. */
    double (*score)(void *ctx, const RefPair *p);
    void (*see)(void *ctx, int l, const double *x, int n);
    void *ctx;
} RefOptions;

/* logits[i * V + id] after token i, for all n tokens: every position is computed from scratch.
 * 0, or -1 if the file is not one this reference can run. */
int ref_forward(const char *path, const int *ids, int n, double *logits, const RefOptions *o);
int ref_forward_gguf(const Gguf *g, const int *ids, int n, double *logits, const RefOptions *o);

/* A random model of the llama family. What is 0 is left out of the file. */
typedef struct {
    const char *arch; /* NULL: "llama" */
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    int n_ctx;           /* 0: 64 */
    int n_rot;           /* 0: no such key */
    int window;          /* sliding_window */
    int untied;          /* has output.weight */
    int biases;          /* q, k, v and o biases */
    int factors;         /* rope_freqs.weight, as Llama 3 files have */
    double base, linear; /* rope.freq_base, rope.scaling.factor */
    int type, embd_type; /* of the matrices, and of the embedding (and output) */
    uint64_t seed;
    int swap;     /* 1: q and k rows (and biases) written in the other rotary layout */
    int no_vocab; /* 1: no tokenizer */
} TinyModel;

/* The file, from malloc; the same bytes on every machine. */
uint8_t *tiny_model(const TinyModel *t, size_t *size);

#endif
