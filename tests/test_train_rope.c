/* The encoding in a file of the trainer: it is obeyed to the bit without --rope, and what stands in
 * the file for llama.cpp, which does not know the key ropescope.rope, says the same. */
#define main train_main
int train_main(int argc, char **argv);
#include "../demo/train.c"
#undef main

#include "check.h"
#include "train_files.h"

enum { VOCAB = 40, HEAD_DIM = 8, CTX = 48 };

/* A base that no float holds; queries and keys large enough that angles matter. */
static Recipe small(const char *rope)
{
    Recipe c = {.n_layers = 2,
                .n_embd = 24,
                .n_heads = 4,
                .n_kv_heads = 2,
                .head_dim = HEAD_DIM,
                .n_ff = 32,
                .n_vocab = VOCAB,
                .n_ctx = CTX,
                .n_batch = 1,
                .n_steps = 1,
                .bos = 0,
                .seed = 3,
                .init = 1,
                .init_embd = 1,
                .init_qk = 1.5};
    snprintf(c.rope, sizeof c.rope, "%s", rope);
    return c;
}

static int write_model(const Recipe *c)
{
    Gguf vocab;
    Net t;
    Err e;
    int rc = net_new(&t, c, 1, 1, NULL, &e);
    CHECK_MSG(rc == 0, "%s: %s", c->rope, rc ? e.msg : "");
    if (rc) return -1;
    MUST(gguf_open(&vocab, path_of("vocab.gguf"), &e) == 0);
    rc = model_write(&t, path_of("model.gguf"), &vocab, T_F32, &e);
    CHECK_MSG(rc == 0, "%s: %s", c->rope, rc ? e.msg : "");
    gguf_close(&vocab);
    net_free(&t);
    return rc;
}

static int begins(Str name, const char *with)
{
    return name.n >= strlen(with) && memcmp(name.s, with, strlen(with)) == 0;
}

/* model.gguf without what only this program reads; silent: and without what llama.cpp reads. */
static void write_bare(const char *path, int silent)
{
    Gguf g;
    GgufOut w;
    Err e;
    MUST(gguf_open(&g, path_of("model.gguf"), &e) == 0);
    MUST(gguf_out_open(&w, path, &e) == 0);
    for (size_t i = 0; i < g.n_keys; i++)
        if (!begins(g.keys[i].key, "ropescope.rope") &&
            !(silent && begins(g.keys[i].key, "llama.rope.scaling.")))
            gguf_out_key(&w, &g.keys[i]);
    for (int data = 0; data < 2; data++)
        for (size_t i = 0; i < g.n_tensors; i++) {
            const Tensor *t = &g.tensors[i];
            if (silent && begins(t->name, "rope_freqs.")) continue;
            if (data)
                MUST(gguf_out_data(&w, t->data, t->bytes, &e) == 0);
            else
                gguf_out_tensor(&w, t);
        }
    MUST(gguf_out_close(&w, &e) == 0);
    gguf_close(&g);
}

/* Logits [CTX][VOCAB] of a file with the encoding it asks for, or another one; 0, or -1 with e. */
static int logits_of(const char *path, const char *rope, float *out, Err *e)
{
    Model m;
    State s;
    ModelOptions mo = {.rope = rope};
    StateOptions o = {.n_ctx = CTX, .n_batch = CTX, .n_threads = 1, .exact = 1};
    int tok[CTX];
    for (int i = 0; i < CTX; i++) tok[i] = i * i * 7 % VOCAB;
    if (model_open(&m, path, &mo, e)) return -1;
    MUST(state_new(&s, &m, &o, e) == 0);
    forward(&s, tok, CTX, CTX);
    memcpy(out, s.logits, (size_t)CTX * VOCAB * sizeof *out);
    state_free(&s);
    model_close(&m);
    return 0;
}

static double largest_difference(const float *a, const float *b)
{
    double off = 0;
    for (int i = 0; i < CTX * VOCAB; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        off = d <= off ? off : d;
    }
    return off;
}

enum { KEYS, DIVISORS, NO_FORM }; /* what says the encoding to llama.cpp */

/* Own logits are those that --rope gives, with the file and with one that says nothing. */
static void check_own(const char *rope, float *own)
{
    static float other[CTX * VOCAB];
    Err e = {.usage = 0};
    int rc = logits_of(path_of("model.gguf"), NULL, own, &e);
    CHECK_MSG(rc == 0, "%s: %s", rope, e.msg);
    write_bare(path_of("bare.gguf"), 1);
    for (int i = 0; i < 2; i++) {
        rc = logits_of(path_of(i ? "bare.gguf" : "model.gguf"), rope, other, &e);
        CHECK_MSG(rc == 0, "%s: %s", rope, e.msg);
        CHECK_MSG(memcmp(own, other, sizeof other) == 0, "%s: not the bits of --rope", rope);
    }
}

/* Divisors are floats: an angle of up to CTX is off by CTX 6e-8 = 3e-6, logits of a few units by
 * less (2.4e-7 here). Plain angles instead of these move them by 0.017 (xpos) or 0.07 and more. */
static void check_file(const char *rope, int form)
{
    static float own[CTX * VOCAB], other[CTX * VOCAB];
    Recipe c = small(rope);
    Err e = {.usage = 0};
    if (write_model(&c)) return;
    check_own(rope, own);
    write_bare(path_of("bare.gguf"), 0);
    int rc = logits_of(path_of("bare.gguf"), NULL, other, &e);
    CHECK_MSG((rc != 0) == (form == NO_FORM), "%s: %s", rope, e.msg);
    CHECK_MSG(rc == 0 || strstr(e.msg, "found 'ropescope'"), "%s: %s", rope, e.msg);
    double off = rc == 0 ? largest_difference(own, other) : 0;
    CHECK_MSG(off <= 5e-6, "%s: without its own key logits are off by %g", rope, off);
    Gguf g;
    MUST(gguf_open(&g, path_of("bare.gguf"), &e) == 0);
    CHECK_MSG((gguf_tensor(&g, "rope_freqs.weight") != NULL) == (form == DIVISORS), "%s", rope);
    gguf_close(&g);
    MUST(logits_of(path_of("model.gguf"), "plain", other, &e) == 0);
    off = largest_difference(own, other);
    CHECK_MSG(strncmp(rope, "plain", 5) == 0 || off > 0.01, "%s: plain is off by %g only", rope,
              off);
}

static void test_forms(void)
{
    static const struct {
        const char *rope;
        int form;
    } cases[] = {{"plain", KEYS},
                 {"plain:base=500", KEYS},
                 {"plain:base=1234.5678", KEYS},
                 {"plain:base=500,n_rot=4", DIVISORS},
                 {"plain:pos_scale=0.5", DIVISORS},
                 {"none", DIVISORS},
                 {"p-rope:fraction=0.5", DIVISORS},
                 {"p-rope:fraction=0.5,drop=highest,base=77.7", DIVISORS},
                 {"proportional:fraction=0.75,factor=2", DIVISORS},
                 {"partial:fraction=0.5", DIVISORS},
                 {"linear:factor=4", DIVISORS},
                 {"ntk:alpha=3", DIVISORS},
                 {"by-parts:factor=4,original=32", DIVISORS},
                 {"yarn:factor=4,original=32", DIVISORS},
                 {"yarn:factor=4,original=32,n_rot=4", NO_FORM}, /* an amplitude of half a head */
                 {"llama3:factor=8,original=24", DIVISORS},
                 {"fope-clip:base=500", DIVISORS},
                 {"rope-id:fastest=8", NO_FORM},
                 {"alibi", NO_FORM},
                 {"xpos", NO_FORM},
                 {"nope-layers:every=2", NO_FORM}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_file(cases[i].rope, cases[i].form);
}

/* A model asks for <s> if it was trained with it, whatever its vocabulary says. */
static void test_bos(void)
{
    for (int bos = -1; bos < 1; bos++) {
        Recipe c = small("plain");
        Gguf g;
        Err e;
        int add = -1;
        c.bos = bos;
        if (write_model(&c)) return;
        MUST(gguf_open(&g, path_of("model.gguf"), &e) == 0);
        CHECK(gguf_bool(&g, "tokenizer.ggml.add_bos_token", &add, &e) == 1);
        CHECK(add == (bos >= 0));
        CHECK(gguf_find(&g, "tokenizer.ggml.bos_token_id") != NULL);
        gguf_close(&g);
    }
}

int main(void)
{
    MUST(mkdtemp(folder));
    write_vocab(path_of("vocab.gguf"), VOCAB, 1);
    test_forms();
    test_bos();
    remove(path_of("vocab.gguf"));
    remove(path_of("model.gguf"));
    remove(path_of("bare.gguf"));
    rmdir(folder);
    return check_done();
}
