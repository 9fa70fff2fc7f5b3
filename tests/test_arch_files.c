/* What a file of an architecture must have, may have, and need not say: the miniatures of
 * tests/families with a tensor or a key taken out, put in or changed. What forward would not read
 * is refused, what is missing is missed, and what a key does not say is what the architecture says
 * (the defaults are those of llama.cpp). */
#include "../model.h"
#include "check.h"
#include "gguf_builder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static Err err;

enum { N_EDITS = 8, N_TOKENS = 20 };

/* One change, from a word: "-T" without tensor T, "+T=cols,rows" with a tensor of this shape in its
 * place or besides, "half:T" tensor T as F16; "-@K" without key K (what follows the architecture),
 * "@K=f:5" with it: f32, u32, bool, u64 (q), and a list of i32 (I). Shapes are letters, as the miniature has
 * them: E embedding, D head size, Q and K all query and all key heads, H and J how many these are,
 * F feed-forward, V vocabulary; and R is 1 / sqrt(D). */
typedef struct {
    char op, name[80], type;
    float v[8];
    int n;
} Change;

static float value_of(const Model *m, const char *at, char **end)
{
    const Layer *ly = &m->layer[0];
    float D = (float)m->head_dim, H = (float)ly->n_heads, J = (float)ly->n_kv_heads;
    const float size[] = {(float)m->n_embd,  D,           H * D, J * D, H, J, (float)ly->n_ff,
                          (float)m->n_vocab, 1 / sqrtf(D)};
    const char *letters = "EDQKHJFVR", *letter = strchr(letters, *at);
    if (!letter) return strtof(at, end);
    *end = (char *)(uintptr_t)(at + 1);
    return size[letter - letters];
}

static Change change_of(const Model *m, const char *word)
{
    Change c = {.op = word[0]};
    const char *at = word + 1;
    if (strncmp(word, "half:", 5) == 0) c.op = 'h', at = word + 5;
    size_t n = strcspn(at, "=");
    snprintf(c.name, sizeof c.name, "%.*s", (int)n, at);
    at += n + (at[n] == '=');
    if (c.op == '@') c.type = *at, at += 2;
    for (char *end; *at && c.n < 8; at = end + (*end == ',')) c.v[c.n++] = value_of(m, at, &end);
    return c;
}

/* The change that is about this tensor or key, or NULL. */
static const Change *about(const Change *c, int n, Str name, const char *ops, int skip)
{
    for (int i = 0; i < n; i++) {
        const char *want = c[i].name + (c[i].op == '-' && c[i].name[0] == '@');
        if (strchr(ops, c[i].op) && name.n > (size_t)skip &&
            str_is((Str){name.s + skip, name.n - (size_t)skip}, want))
            return &c[i];
    }
    return NULL;
}

static void put_key(GgufBuilder *b, const char *arch, const Change *c)
{
    char key[160];
    int list[8];
    snprintf(key, sizeof key, "%s.%s", arch, c->name);
    for (int i = 0; i < c->n; i++) list[i] = (int)c->v[i];
    if (c->type == 'f') gb_key_f32(b, key, c->v[0]);
    if (c->type == 'u') gb_key_u32(b, key, (uint32_t)c->v[0]);
    if (c->type == 'b') gb_key_bool(b, key, c->v[0] > 0);
    if (c->type == 'q') {
        uint64_t v = (uint64_t)c->v[0];
        gb_key(b, key, GGUF_U64);
        bytes_add(&b->keys, (const char *)&v, sizeof v);
    }
    if (c->type == 'I') gb_key_i32s(b, key, list, (size_t)c->n);
}

static void put_ones(GgufBuilder *b, const Change *c)
{
    int64_t ne[2] = {(int64_t)c->v[0], c->n > 1 ? (int64_t)c->v[1] : 1};
    size_t n = (size_t)(ne[0] * ne[1]);
    float *one = xcalloc(n, sizeof *one);
    for (size_t i = 0; i < n; i++) one[i] = 1;
    gb_tensor(b, c->name, T_F32, c->n, ne, one, n * sizeof *one);
    free(one);
}

static void put_tensor(GgufBuilder *b, const Tensor *t, int half)
{
    char name[80];
    size_t n = t->bytes / sizeof(float);
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
    if (!half || t->type != T_F32) {
        gb_tensor(b, name, t->type, t->n_dims, t->ne, t->data, t->bytes);
        return;
    }
    uint16_t *h = xcalloc(n, sizeof *h);
    kernels_base.pack_f16(h, (const float *)(const void *)t->data, (int)n);
    gb_tensor(b, name, T_F16, t->n_dims, t->ne, h, n * sizeof *h);
    free(h);
}

/* The miniature, changed, in memory of its exact size. */
static uint8_t *changed(const Model *m, const Change *c, int n, size_t *size)
{
    const Gguf *g = &m->g;
    GgufBuilder b = {0};
    int arch = (int)strlen(m->arch->name) + 1;
    for (size_t i = 0; i < g->n_keys; i++) {
        const GgufKey *k = &g->keys[i];
        char key[128];
        if (about(c, n, k->key, "@-", arch)) continue;
        snprintf(key, sizeof key, "%.*s", (int)k->key.n, k->key.s);
        if (k->type == GGUF_ARR)
            gb_key_arr(&b, key, k->elem, k->n);
        else
            gb_key(&b, key, k->type);
        bytes_add(&b.keys, (const char *)k->val, k->bytes);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        const Tensor *t = &g->tensors[i];
        if (!about(c, n, t->name, "-+", 0)) put_tensor(&b, t, about(c, n, t->name, "h", 0) != NULL);
    }
    for (int i = 0; i < n; i++) {
        if (c[i].op == '@') put_key(&b, m->arch->name, &c[i]);
        if (c[i].op == '+') put_ones(&b, &c[i]);
    }
    return gb_finish(&b, size);
}

/* The file of the miniature after the changes that words (split at spaces) ask for. */
static uint8_t *file_of(const char *family, const char *words, size_t *size)
{
    Change c[N_EDITS];
    Model m;
    char text[512], path[128], *save = NULL;
    int n = 0;
    snprintf(path, sizeof path, "tests/families/%s.gguf", family);
    if (!CHECK_MSG(!model_open(&m, path, NULL, &err), "%s", err.msg)) exit(check_done());
    snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok_r(text, " ", &save); w && n < N_EDITS; w = strtok_r(NULL, " ", &save))
        c[n++] = change_of(&m, w);
    uint8_t *file = changed(&m, c, n, size);
    model_close(&m);
    return file;
}

static int load(Model *m, const char *family, const char *words, const ModelOptions *o)
{
    Gguf g;
    size_t size;
    uint8_t *file = file_of(family, words, &size);
    err = (Err){.usage = 0};
    int rc = gguf_parse(&g, family, file, size, &err);
    if (rc == 0) rc = model_bind(m, &g, o, &err);
    if (rc) {
        free(file);
        *m = (Model){0};
        return -1;
    }
    m->owned = xrealloc(m->owned, (size_t)m->n_owned + 1, sizeof *m->owned);
    m->owned[m->n_owned++] = (float *)(void *)file; /* goes with the model */
    return 0;
}

/* Logits of N_TOKENS tokens, the last row; to be freed. */
static float *logits_of(const Model *m)
{
    State s;
    int ids[N_TOKENS];
    StateOptions so = {.n_ctx = N_TOKENS, .n_batch = N_TOKENS, .exact = 1, .n_threads = 1};
    float *out = xcalloc((size_t)m->n_vocab, sizeof *out);
    for (int i = 0; i < N_TOKENS; i++) ids[i] = (7 * i * i + 13 * i + 3) % m->n_vocab;
    if (!CHECK_MSG(!state_new(&s, m, &so, &err), "%s", err.msg)) return out;
    forward(&s, ids, N_TOKENS, 1);
    memcpy(out, s.logits, (size_t)m->n_vocab * sizeof *out);
    state_free(&s);
    return out;
}

/* All words of want, split at '|', are in the refusal, which begins with the name of the file. */
static void check_refused(int line, const char *family, const char *words, const char *want)
{
    Model m;
    char text[256], *save = NULL;
    int rc = load(&m, family, words, NULL);
    snprintf(text, sizeof text, "%s", want);
    if (rc == 0) model_close(&m);
    CHECK_MSG(rc && strncmp(err.msg, family, strlen(family)) == 0, "line %d: %s %s: %s", line,
              family, words, rc ? err.msg : "loads");
    for (char *w = strtok_r(text, "|", &save); rc && w; w = strtok_r(NULL, "|", &save))
        CHECK_MSG(strstr(err.msg, w), "line %d: %s %s: expected '%s' in: %s", line, family, words,
                  w, err.msg);
}
#define REFUSED(family, words, want) check_refused(__LINE__, family, words, want)

/* Two changes of a miniature, the first one under options, come to the same bits, or (same 0) do
 * not. */
static void check_alike(int line, const char *family, const char *words, const char *others,
                        int same, const ModelOptions *o)
{
    Model m[2];
    for (int i = 0; i < 2; i++)
        if (!CHECK_MSG(!load(&m[i], family, i ? others : words, i ? NULL : o), "line %d: %s %s: %s",
                       line, family, i ? others : words, err.msg))
            return;
    float *a = logits_of(&m[0]), *b = logits_of(&m[1]);
    int finite = 1, equal = !memcmp(a, b, (size_t)m[0].n_vocab * sizeof *a);
    for (int i = 0; i < m[0].n_vocab; i++) finite &= isfinite(a[i]) && isfinite(b[i]);
    CHECK_MSG(finite && equal == same, "line %d: %s: '%s' and '%s' %s", line, family, words, others,
              !finite ? "are not finite"
              : same  ? "differ"
                      : "do not differ");
    for (int i = 0; i < 2; i++) model_close(&m[i]);
    free(a);
    free(b);
}
#define ALIKE(family, words, others)  check_alike(__LINE__, family, words, others, 1, NULL)
#define DIFFER(family, words, others) check_alike(__LINE__, family, words, others, 0, NULL)

/* Norms of queries and keys, one kind for both. qwen3 has several key heads, the others one. */
static void test_head_norms(void)
{
    REFUSED("qwen3", "-blk.1.attn_k_norm.weight", "'blk.1.attn_k_norm.weight' is missing");
    REFUSED("qwen3", "-blk.1.attn_q_norm.weight", "'blk.1.attn_q_norm.weight' is missing");
    REFUSED("gemma3", "-blk.2.attn_k_norm.weight", "'blk.2.attn_k_norm.weight' is missing");
    REFUSED("qwen3", "+blk.0.attn_k_norm.weight=K", "'blk.0.attn_k_norm.weight'|same weights");
    REFUSED("qwen3", "+blk.0.attn_k_norm.weight=D,J", "'blk.0.attn_k_norm.weight'|same weights");
    REFUSED("qwen3", "+blk.0.attn_q_norm.weight=Q", "'blk.0.attn_q_norm.weight'");
    REFUSED("qwen3", "+blk.0.attn_q_norm.weight=D,H +blk.0.attn_k_norm.weight=D,J",
            "'blk.0.attn_q_norm.weight'");
    REFUSED("olmo2", "+blk.1.attn_q_norm.weight=D", "'blk.1.attn_q_norm.weight'|together");
    REFUSED("olmo2", "+blk.1.attn_k_norm.weight=Q", "'blk.1.attn_k_norm.weight'");
    REFUSED("olmo2", "-blk.1.attn_k_norm.weight", "'blk.1.attn_k_norm.weight' is missing");
    REFUSED("stablelm-parallel", "+blk.0.attn_q_norm.weight=D",
            "'blk.0.attn_q_norm.weight'|own weights");
    REFUSED("stablelm-parallel", "-blk.0.attn_q_norm.weight", "'blk.0.attn_q_norm.weight'");
    REFUSED("stablelm-parallel", "-blk.1.attn_k_norm.weight", "'blk.1.attn_k_norm.weight'");
    REFUSED("stablelm-parallel", "-blk.1.attn_q_norm.weight -blk.1.attn_k_norm.weight",
            "'blk.1.attn_q_norm.weight' is missing");
    REFUSED("llama", "+blk.0.attn_q_norm.weight=D +blk.0.attn_k_norm.weight=D",
            "'blk.0.attn_k_norm.weight' is not part of");
    /* A single key head: what its norm is, that of the queries says. F16 is widened to its size. */
    ALIKE("olmo2", "", "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight");
    ALIKE("qwen3", "", "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight");
    ALIKE("stablelm-parallel", "", "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight");
    DIFFER("qwen3", "", "+blk.0.attn_k_norm.weight=D");
}

/* The miniature with (op '+') or without (op '-') each of the tensors, split at spaces, is refused
 * as "'tensor' why". */
static void check_each(const char *family, const char *tensors, char op, const char *why)
{
    char list[512], *save = NULL;
    snprintf(list, sizeof list, "%s", tensors);
    for (char *t = strtok_r(list, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
        char words[96], want[96];
        snprintf(words, sizeof words, "%c%s", op, t);
        snprintf(want, sizeof want, "'%.*s' %s", (int)strcspn(t, "="), t, why);
        REFUSED(family, words, want);
    }
}

/* A tensor that forward would not read. */
static void test_not_read(void)
{
    static const struct {
        const char *family, *add;
    } rows[] = {
        {"llama", "blk.0.attn_norm.bias=E"},       {"llama", "blk.1.ffn_norm.bias=E"},
        {"llama", "output_norm.bias=E"},           {"llama", "blk.0.post_attention_norm.weight=E"},
        {"qwen3", "blk.0.post_ffw_norm.weight=E"}, {"olmo", "blk.0.attn_norm.weight=E"},
        {"olmo", "blk.0.ffn_norm.weight=E"},       {"olmo", "output_norm.weight=E"},
        {"olmo2", "blk.0.attn_norm.weight=E"},     {"olmo2", "blk.0.ffn_norm.weight=E"},
        {"phi2", "blk.0.ffn_norm.weight=E"},       {"phi2", "blk.0.ffn_norm.bias=E"},
        {"gptj", "blk.1.ffn_norm.weight=E"},       {"phi2", "blk.0.ffn_gate.bias=F"},
        {"gptneox", "blk.0.ffn_gate.bias=F"},      {"starcoder2", "blk.0.ffn_gate.weight=E,F"},
        {"gptneox", "blk.0.attn_q_norm.weight=D"}, {"gptneox", "blk.0.attn_q.bias=Q"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_each(rows[i].family, rows[i].add, '+', "is not part of");
    /* These are read. */
    DIFFER("llama", "",
           "+blk.0.attn_q.bias=Q +blk.0.attn_k.bias=K +blk.0.attn_v.bias=K "
           "+blk.1.attn_q.bias=Q +blk.1.attn_k.bias=K +blk.1.attn_v.bias=K");
    DIFFER("llama", "", "+blk.1.attn_output.bias=E");
    DIFFER("llama", "", "+blk.0.ffn_gate.bias=F");
    DIFFER("qwen2", "", "+output.bias=V");
}

/* Without this tensor of it, no file of the family loads. */
static void test_required(void)
{
    static const struct {
        const char *family, *tensors;
    } rows[] = {
        {"llama", "blk.1.attn_norm.weight blk.1.ffn_norm.weight blk.0.ffn_gate.weight "
                  "output_norm.weight token_embd.weight"},
        {"llama-bias", "blk.1.attn_q.bias blk.0.attn_v.bias"},
        {"qwen2", "blk.0.attn_q.bias blk.1.attn_k.bias blk.2.attn_v.bias"},
        {"gptneox",
         "output.weight blk.0.attn_qkv.bias blk.1.attn_output.bias blk.0.ffn_up.bias "
         "blk.0.ffn_down.bias blk.1.ffn_norm.bias blk.1.attn_norm.bias output_norm.bias"},
        {"gptneox-sequential", "output.weight blk.1.ffn_norm.weight"},
        {"phi2",
         "output.weight output.bias blk.1.attn_q.bias blk.1.attn_k.bias blk.1.attn_v.bias "
         "blk.0.attn_output.bias blk.0.ffn_up.bias blk.0.ffn_down.bias blk.0.attn_norm.bias"},
        {"starcoder2", "blk.1.attn_q.bias blk.1.attn_k.bias blk.1.attn_v.bias blk.0.ffn_up.bias "
                       "blk.0.attn_output.bias blk.0.ffn_down.bias blk.0.ffn_norm.bias"},
        {"gptj", "output.weight output.bias blk.0.ffn_up.bias blk.1.ffn_down.bias "
                 "blk.0.attn_norm.bias"},
        {"stablelm", "output.weight blk.1.ffn_norm.weight blk.0.ffn_norm.weight "
                     "blk.1.ffn_norm.bias blk.1.attn_q.bias blk.1.attn_norm.bias"},
        {"stablelm-parallel", "output.weight"},
        {"olmo2", "output.weight blk.0.post_attention_norm.weight blk.0.post_ffw_norm.weight"},
        {"gemma2", "blk.0.post_attention_norm.weight blk.1.post_ffw_norm.weight"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_each(rows[i].family, rows[i].tensors, '-', "is missing");
    REFUSED("phi2", "-blk.0.attn_q.bias -blk.0.attn_k.bias -blk.0.attn_v.bias",
            "'blk.0.attn_q.bias' is missing");
    REFUSED("gptneox", "-blk.0.attn_qkv.bias -blk.1.attn_qkv.bias",
            "'blk.0.attn_qkv.bias' is missing");
    /* In these the embedding is the output matrix where there is none. */
    static const char *const tied[] = {"llama", "smollm3", "granite", "qwen2",      "qwen3", "phi3",
                                       "olmo",  "gemma",   "gemma2",  "starcoder2", "gemma3"};
    for (size_t i = 0; i < sizeof tied / sizeof *tied; i++) {
        Model m;
        if (CHECK_MSG(!load(&m, tied[i], "-output.weight", NULL), "%s", err.msg)) {
            CHECK_MSG(m.output == m.tok_embd, "%s", tied[i]);
            model_close(&m);
        }
    }
}

/* What follows from a file without a key, and where 0 says that there is none. */
static void test_defaults(void)
{
    ALIKE("gemma2", "-@attn_logit_softcapping", "@attn_logit_softcapping=f:50");
    DIFFER("gemma2", "-@attn_logit_softcapping", "@attn_logit_softcapping=f:0");
    ALIKE("gemma2", "-@final_logit_softcapping", "@final_logit_softcapping=f:30");
    DIFFER("gemma2", "-@final_logit_softcapping", "@final_logit_softcapping=f:0");
    ALIKE("gemma3", "", "@final_logit_softcapping=f:0");
    ALIKE("gemma2", "", "@attention.sliding_window_pattern=u:2");
    ALIKE("gemma3", "", "@attention.sliding_window_pattern=u:6");
    ALIKE("gemma3", "-@rope.freq_base_swa", "@rope.freq_base_swa=f:10000");
    ALIKE("gemma3", "-@attention.sliding_window", "@attention.sliding_window=u:0");
    DIFFER("gemma3", "", "-@attention.sliding_window");
    ALIKE("smollm3", "", "@attention.rope_pattern=I:1,1,1,0");
    ALIKE("olmo3", "", "@attention.sliding_window_pattern=u:4");
    ALIKE("olmo3", "-@rope.freq_base_swa", "@rope.freq_base_swa=f:1e6");
    DIFFER("olmo3", "", "@attention.sliding_window_pattern=u:0");
    ALIKE("granite", "@residual_scale=f:0", "@residual_scale=f:1");
    ALIKE("granite", "@embedding_scale=f:0", "@embedding_scale=f:1");
    ALIKE("granite", "@logit_scale=f:0", "@logit_scale=f:1");
    ALIKE("gemma", "", "@embedding_scale=f:0");
    ALIKE("granite", "@attention.scale=f:0", "@attention.scale=f:R");
    ALIKE("granite", "-@residual_scale", "@residual_scale=f:1");
    ALIKE("phi3", "-@attention.sliding_window", "@attention.sliding_window=u:0");
    ALIKE("granite", "", "@rope.scaling.finetuned=b:1");
    ALIKE("granite", "@rope.scaling.finetuned=b:0", "@attention.rope_pattern=I:0,0");
    ALIKE("llama", "", "@rope.scaling.finetuned=b:0");
    REFUSED("granite", "-@logit_scale", "'granite.logit_scale' is missing");
    REFUSED("gptneox", "-@use_parallel_residual", "'gptneox.use_parallel_residual' is missing");
    REFUSED("llama", "-@attention.layer_norm_rms_epsilon", "layer_norm_rms_epsilon' is missing");
    REFUSED("gptneox", "-@attention.layer_norm_epsilon", "'gptneox.attention.layer_norm_epsilon'");
    REFUSED("qwen3", "-@attention.layer_norm_rms_epsilon @attention.layer_norm_epsilon=f:1e-5",
            "'qwen3.attention.layer_norm_rms_epsilon' is missing");
    Model m;
    if (CHECK_MSG(!load(&m, "gemma2", "-@attention.sliding_window", NULL), "%s", err.msg)) {
        CHECK(m.layer[0].window == 4096 && m.layer[1].window == 0 && m.layer[2].window == 4096);
        model_close(&m);
    }
}

static const char *text_of(const Model *m, int l)
{
    static char text[1024];
    rope_text(&m->rope[m->layer[l].rope], text, sizeof text);
    return text;
}

/* What the texts of layer 0, which has a window, and of one without begin with. */
static void check_ropes(int line, const char *family, const char *words, const char *local,
                        const char *full, int full_layer)
{
    Model m;
    if (!CHECK_MSG(!load(&m, family, words, NULL), "line %d: %s", line, err.msg)) return;
    CHECK_MSG(!strncmp(text_of(&m, 0), local, strlen(local)), "line %d: %s: %s", line, family,
              text_of(&m, 0));
    CHECK_MSG(!strncmp(text_of(&m, full_layer), full, strlen(full)), "line %d: %s: %s", line,
              family, text_of(&m, full_layer));
    model_close(&m);
}
#define ROPES(family, words, local, full, l) check_ropes(__LINE__, family, words, local, full, l)

/* A file's scaling, in layers with a window and in the others. */
static void test_scaled_windows(void)
{
    ROPES("gemma2", "@rope.scaling.factor=f:4", "linear:base=10000,factor=4",
          "linear:base=10000,factor=4", 1);
    ROPES("gemma2", "@rope.scaling.factor=f:4 @rope.freq_base_swa=f:5000",
          "linear:base=5000,factor=4", "linear:base=10000,factor=4", 1);
    ROPES("gemma3", "@rope.scaling.factor=f:4", "plain:base=10000", "linear:base=1e+06,factor=4",
          5);
    ROPES("gemma3", "-@rope.freq_base_swa", "plain:base=10000", "linear:base=1e+06,factor=8", 5);
    ROPES("gemma3", "-@attention.sliding_window", "linear:base=1e+06,factor=8",
          "linear:base=1e+06,factor=8", 5);
    ROPES("olmo3", "", "plain:base=1e+06", "yarn:base=1e+06,", 3);
    ROPES("olmo3", "-@rope.freq_base_swa", "plain:base=1e+06", "yarn:base=1e+06,", 3);
    ROPES("olmo3", "-@attention.sliding_window -@rope.freq_base_swa", "yarn:base=1e+06,",
          "yarn:base=1e+06,", 3);
    ROPES("qwen2", "", "yarn:base=1e+06,", "yarn:base=1e+06,", 2);
    ROPES("mistral", "@rope.scaling.factor=f:4", "linear:base=10000,factor=4",
          "linear:base=10000,factor=4", 1);
    REFUSED("llama", "@rope.freq_base_swa=f:5000", "expected layers that see a window only");
}

/* --window: the logits of a Mistral that has lost its window come back (those of the file that has
 * it are transformers', see test_families); layers without a window beside others have none. */
static void test_window(void)
{
    const char *lost = "-@attention.sliding_window";
    ModelOptions eight = {.windowed = 1, .window = 8}, five = {.windowed = 1, .window = 5},
                 none = {.windowed = 1}, wide = {.windowed = 1, .window = N_TOKENS};
    Model m;
    check_alike(__LINE__, "mistral", lost, "", 1, &eight);
    check_alike(__LINE__, "mistral", lost, "", 0, NULL);
    check_alike(__LINE__, "mistral", "", "@attention.sliding_window=u:5", 1, &five);
    check_alike(__LINE__, "mistral", "", lost, 1, &none);
    check_alike(__LINE__, "mistral", "", lost, 1, &wide);
    check_alike(__LINE__, "gemma3", "", "@attention.sliding_window=u:5", 1, &five);
    check_alike(__LINE__, "gemma3", "", "@attention.sliding_window=u:20", 1, &none);
    check_alike(__LINE__, "olmo3", "", "@attention.sliding_window=u:5", 1, &five);
    if (CHECK_MSG(!load(&m, "gemma3", "", &five), "%s", err.msg)) {
        for (int l = 0; l < m.n_layers; l++) CHECK(m.layer[l].window == (l == 5 ? 0 : 5));
        model_close(&m);
    }
}

/* Seeds for the fuzzer, which tests/test_file.c has no kind of: norms of heads of all three kinds,
 * which are copied when they are F16, and files that have all or nothing of what is optional. */
static int write_seeds(const char *dir)
{
    static const struct {
        const char *name, *family, *words;
    } seeds[] = {
        {"head-norms", "qwen3",
         "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight "
         "half:blk.1.attn_q_norm.weight half:blk.1.attn_k_norm.weight"},
        {"all-norms", "olmo3", "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight"},
        {"own-norms", "stablelm-parallel",
         "half:blk.0.attn_q_norm.weight half:blk.0.attn_k_norm.weight"},
        {"poor", "stablelm-parallel",
         "-blk.0.attn_q_norm.weight -blk.0.attn_k_norm.weight -blk.1.attn_q_norm.weight "
         "-blk.1.attn_k_norm.weight"},
        {"norms-and-biases", "stablelm", ""},
        {"fused", "gptneox", ""},
        {"biases", "phi2", ""},
        {"windows", "qwen2", ""},
    };
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char path[1024];
        size_t size;
        uint8_t *file = file_of(seeds[i].family, seeds[i].words, &size);
        snprintf(path, sizeof path, "%s/%s.gguf", dir, seeds[i].name);
        FILE *f = fopen(path, "wb");
        int bad = !f || fwrite(file, 1, size, f) != size;
        if (f && fclose(f)) bad = 1;
        free(file);
        if (bad) return 1;
    }
    return 0;
}

/* A bool is no number, and u64 goes beyond int64_t. */
static void test_integers(void)
{
    static const char *const keys[] = {
        "block_count",          "context_length",           "rope.scaling.original_context_length",
        "attention.head_count", "attention.sliding_window", "attention.sliding_window_pattern"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char words[96], want[96];
        snprintf(words, sizeof words, "@%s=b:1", keys[i]);
        snprintf(want, sizeof want, "'gemma2.%s': expected an integer, found bool", keys[i]);
        REFUSED("gemma2", words, want);
    }
    REFUSED("llama", "@block_count=q:9223372036854775808", "found 9223372036854775808");
    REFUSED("llama", "@block_count=q:18446742974197923840", "found 18446742974197923840");
    REFUSED("gptneox", "@use_parallel_residual=I:1", "expected true or false, found an array");
    ALIKE("llama", "", "@attention.causal=b:1");
    REFUSED("llama", "@attention.causal=b:0", "'llama.attention.causal': expected 1, found 0");
}

/* vocab_size is a number; the rows of the embedding are what counts. */
static void test_vocab_size(void)
{
    ALIKE("llama", "", "@vocab_size=u:V");
    ALIKE("llama", "", "-@vocab_size");
    ALIKE("llama", "", "@vocab_size=u:101");
    ALIKE("llama", "", "@vocab_size=u:99");
    REFUSED("llama", "@vocab_size=u:0", "'llama.vocab_size': expected an integer from 1");
    REFUSED("llama", "@vocab_size=b:1", "'llama.vocab_size': expected an integer, found bool");
    REFUSED("llama", "@vocab_size=f:V", "'llama.vocab_size': expected an integer, found f32");
    REFUSED("llama", "@vocab_size=I:V", "'llama.vocab_size': expected an integer, found an array");
}

static void test_factors(void)
{
    static const char *const scales[] = {"logit_scale", "embedding_scale", "residual_scale"};
    static const char *const caps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    static const char *const bad[] = {"-1", "nan", "inf"};
    char words[96], want[96];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            snprintf(words, sizeof words, "@%s=f:%s", scales[i], bad[k]);
            snprintf(want, sizeof want, "'granite.%s': expected a number from 0", scales[i]);
            REFUSED("granite", words, want);
        }
    for (int i = 0; i < 2; i++) {
        snprintf(words, sizeof words, "@%s=f:1e-45", caps[i]);
        snprintf(want, sizeof want, "'gemma2.%s': expected 0 or a number from 1e-06", caps[i]);
        REFUSED("gemma2", words, want);
        snprintf(words, sizeof words, "@%s=f:0", caps[i]);
        DIFFER("gemma2", words, "");
    }
    /* Biases of attention are obeyed by every architecture. */
    DIFFER("starcoder2", "", "@attention.max_alibi_bias=f:8");
    ALIKE("starcoder2", "", "@attention.max_alibi_bias=f:0");
}

/* leading_dense_block_count agrees with the tensors. */
static void test_dense_layers(void)
{
    ALIKE("qwen3moe", "", "@leading_dense_block_count=u:0");
    REFUSED("olmoe", "@leading_dense_block_count=u:1",
            "'olmoe.leading_dense_block_count': expected at most 0, as 'blk.0' has experts");
    REFUSED("qwen2moe", "@leading_dense_block_count=u:4096", "'qwen2moe.leading_dense_block_count'");
    ALIKE("llama", "", "@leading_dense_block_count=u:1");
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--seeds")) return write_seeds(argv[2]);
    test_head_norms();
    test_not_read();
    test_required();
    test_defaults();
    test_scaled_windows();
    test_window();
    test_integers();
    test_vocab_size();
    test_factors();
    test_dense_layers();
    return check_done();
}
