/* The encoding that a GGUF file asks for: a kind and its numbers for every layer.
 *
 * These keys, after the name of the architecture and a point, mean what llama.cpp takes them for,
 * where it reads them: for some architectures (llama among them) it leaves out yarn_beta_*,
 * yarn_ext_factor, yarn_log_multiplier and max_alibi_bias, which are obeyed here for all.
 *
 *   rope.freq_base                base; rope.freq_base_swa that of layers with a window, whose
 *                                 angles are then not scaled, but in Gemma 2;
 *                                 rope.freq_base_per_layer one for each layer
 *   rope.dimension_count          n_rot; rope.dimension_count_swa, _per_layer: likewise
 *   rope.scaling.type             none, linear (if absent), yarn, longrope
 *   rope.scaling.factor           s, 0 for 1 (older files: rope.scale_linear)
 *   rope.scaling.original_context_length    L (context_length)
 *   rope.scaling.attn_factor      multiplies cos and sin (1), whatever the type
 *   rope.scaling.alpha            NTK-aware alpha (0: none)
 *   rope.scaling.yarn_beta_fast, _beta_slow (32, 1), _ext_factor (1; below 0: not said),
 *   rope.scaling.yarn_log_multiplier        mscale_all_dim, beside an mscale of 1 (0: neither)
 *   rope.scaling.yarn_attn_factor is overruled there by the amplitude that follows from s; it is
 *                                 accepted where it says the same, or 1
 *   rope.scaling.finetuned        in Granite, false: no encoding; else it says nothing about the
 *                                 arithmetic
 *   rope.dimension_sections       positions in a picture: accepted where all pairs belong to time
 *   attention.rope_pattern        for each layer, 0: no encoding
 *   attention.max_alibi_bias      slopes of ALiBi, on top of plain angles (0: none)
 *
 * and the tensors rope_freqs.weight, rope_factors_short.weight and rope_factors_long.weight.
 * Pitfall: files of DeepSeek-2 hold a tenth of mscale_all_dim as their log multiplier, and mean the
 * scale of the scores, too; whoever adds that architecture has to divide by 0.1.
 *
 * A key of our own, ropescope.rope, says what those cannot: a text as --rope takes it ("dynamic:
 * factor=4"), or a list of such texts, one per layer. It stands in the place of rope.scaling.*, of
 * rope_pattern, of max_alibi_bias and of rope_freqs.weight; base, n_rot and L are those of the keys
 * above where the text says nothing else. */
#include "../model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Every key under "rope." that is obeyed, or changes nothing. */
static const char *const rope_keys[] = {
    "freq_base",
    "freq_base_swa",
    "freq_base_per_layer",
    "dimension_count",
    "dimension_count_swa",
    "dimension_count_per_layer",
    "dimension_sections",
    "scale_linear",
    "scaling.type",
    "scaling.factor",
    "scaling.original_context_length",
    "scaling.attn_factor",
    "scaling.alpha",
    "scaling.finetuned",
    "scaling.yarn_ext_factor",
    "scaling.yarn_attn_factor",
    "scaling.yarn_beta_fast",
    "scaling.yarn_beta_slow",
    "scaling.yarn_log_multiplier",
};

static const char *key_of(const RopeFile *f, const char *name, char buf[128])
{
    snprintf(buf, 128, "%s.%s", f->arch, name);
    return buf;
}

static int read_float(const RopeFile *f, const char *name, double lo, double hi, double *out,
                      Err *e)
{
    char key[128];
    return gguf_float(f->g, key_of(f, name, key), lo, hi, out, e);
}

/* A rope key nobody knows would change the result if it were obeyed. */
static int refuse_others(const RopeFile *f, Err *e)
{
    size_t n = strlen(f->arch), known = sizeof rope_keys / sizeof *rope_keys;
    for (size_t i = 0; i < f->g->n_keys; i++) {
        Str key = f->g->keys[i].key;
        size_t k = 0;
        if (key.n < n + 6 || memcmp(key.s, f->arch, n) || memcmp(key.s + n, ".rope.", 6)) continue;
        while (k < known && !str_is((Str){key.s + n + 6, key.n - n - 6}, rope_keys[k])) k++;
        if (k == known)
            return err_set(e,
                           "%s: key '%.*s' is not one that this program knows; ignoring it could "
                           "give wrong results",
                           f->g->path, key.n < 80 ? (int)key.n : 80, key.s);
    }
    return 0;
}

/* Only pairs of the first section may be there: the others turn by places in a picture. */
static int refuse_sections(const RopeFile *f, Err *e)
{
    char key[128];
    int *v = NULL, other = 0;
    size_t n = 0;
    int found = gguf_ints(f->g, key_of(f, "rope.dimension_sections", key), &v, &n, e);
    for (size_t i = 1; found == 1 && i < n; i++)
        if (v[i]) other = v[i];
    free(v);
    if (found < 0) return -1;
    if (!other) return 0;
    return err_set(e,
                   "%s: key '%s': expected one section, for positions in a text, found another of "
                   "%d pairs; M-RoPE is not supported",
                   f->g->path, key, other);
}

/* ---------------------------------------------------------------- base, n_rot, L */

static int local_base(const RopeFile *f, RopeSpec *spec, Err *e)
{
    double base = f->local_base;
    int n = 0, found = read_float(f, "rope.freq_base_swa", 1, 1e12, &base, e);
    if (found < 0 || base <= 0) return found;
    for (int l = 0; l < f->n_layers; l++) {
        if (!f->local[l]) continue;
        spec[l].p.base = base;
        n++;
    }
    if (n || !found || f->mixed) return 0;
    return err_set(e,
                   "%s: key '%s.rope.freq_base_swa': expected layers that see a window only, "
                   "found none",
                   f->g->path, f->arch);
}

static int base_per_layer(const RopeFile *f, RopeSpec *spec, Err *e)
{
    char key[128];
    float *v = NULL;
    size_t n = 0;
    int found = gguf_floats(f->g, key_of(f, "rope.freq_base_per_layer", key), &v, &n, e), bad = 0;
    if (found <= 0) return found;
    if (n != (size_t)f->n_layers)
        bad = err_set(e, "%s: key '%s': expected %d numbers, one per layer, found %zu", f->g->path,
                      key, f->n_layers, n);
    for (int l = 0; !bad && l < f->n_layers; l++) {
        if (!(v[l] >= 1.0f && v[l] <= 1e12f))
            bad = err_set(e, "%s: key '%s': expected numbers from 1 to 1e12, found %g", f->g->path,
                          key, (double)v[l]);
        spec[l].p.base = (double)v[l];
    }
    free(v);
    return bad;
}

static int read_n_rot(const RopeFile *f, RopeSpec *spec, Err *e)
{
    char key[128], local[128], each[128];
    int64_t all = spec->p.head_dim, most = all;
    key_of(f, "rope.dimension_count", key);
    if (gguf_int(f->g, key, 2, most, &all, e) < 0) return -1;
    int64_t swa = all;
    if (gguf_int(f->g, key_of(f, "rope.dimension_count_swa", local), 2, most, &swa, e) < 0)
        return -1;
    int *n = xcalloc((size_t)f->n_layers, sizeof *n), odd = 0;
    for (int l = 0; l < f->n_layers; l++) n[l] = (int)(f->local[l] ? swa : all);
    key_of(f, "rope.dimension_count_per_layer", each);
    int bad = gguf_per_layer(f->g, each, 0, most, n, f->n_layers, e) < 0;
    for (int l = 0; l < f->n_layers; l++) {
        spec[l].p.n_rot = n[l];
        if (n[l] % 2) odd = n[l];
    }
    free(n);
    if (bad || !odd) return bad ? -1 : 0;
    return err_set(e, "%s: key '%s' (or _swa, _per_layer): expected an even number, found %d",
                   f->g->path, key, odd);
}

int rope_file_shape(const RopeFile *f, RopeSpec *spec, Err *e)
{
    char key[128];
    double base = spec->p.base;
    int64_t original = spec->p.n_ctx_train;
    key_of(f, "rope.scaling.original_context_length", key);
    if (read_float(f, "rope.freq_base", 1, 1e12, &base, e) < 0 ||
        gguf_int(f->g, key, 1, INT_MAX, &original, e) < 0)
        return -1;
    for (int l = 0; l < f->n_layers; l++) {
        spec[l].p.base = base;
        spec[l].p.n_ctx_orig = (int)original;
    }
    return local_base(f, spec, e) || base_per_layer(f, spec, e) || read_n_rot(f, spec, e) ? -1 : 0;
}

/* ---------------------------------------------------------------- the kind */

/* What the keys under rope.scaling. say. */
typedef struct {
    Str type;
    int typed; /* there is a key that names the type */
    double factor, attn, alpha, ext, yarn_attn, fast, slow, log_mul, alibi;
} Scaling;

static int read_scaling(const RopeFile *f, Scaling *s, Err *e)
{
    static const struct {
        const char *name;
        double lo, hi;
        size_t field;
    } numbers[] = {
        {"rope.scale_linear", 0, 1e6, offsetof(Scaling, factor)},
        {"rope.scaling.factor", 0, 1e6, offsetof(Scaling, factor)},
        {"rope.scaling.attn_factor", 1e-6, 1e6, offsetof(Scaling, attn)},
        {"rope.scaling.alpha", 0, 1e6, offsetof(Scaling, alpha)},
        {"rope.scaling.yarn_ext_factor", -1e6, 1, offsetof(Scaling, ext)},
        {"rope.scaling.yarn_attn_factor", 1e-6, 1e6, offsetof(Scaling, yarn_attn)},
        {"rope.scaling.yarn_beta_fast", 1e-6, 1e9, offsetof(Scaling, fast)},
        {"rope.scaling.yarn_beta_slow", 1e-6, 1e9, offsetof(Scaling, slow)},
        {"rope.scaling.yarn_log_multiplier", 0, 1e6, offsetof(Scaling, log_mul)},
        {"attention.max_alibi_bias", 0, 1000, offsetof(Scaling, alibi)},
    };
    char key[128];
    *s = (Scaling){.type = {"linear", 6}, .factor = 1, .attn = 1, .ext = -1};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (read_float(f, numbers[i].name, numbers[i].lo, numbers[i].hi,
                       (double *)(void *)((char *)s + numbers[i].field), e) < 0)
            return -1;
    s->typed = gguf_str(f->g, key_of(f, "rope.scaling.type", key), &s->type, e);
    if (s->typed < 0) return -1;
    if (s->factor <= 0 || str_is(s->type, "none")) s->factor = 1; /* 0: "not scaled" */
    return 0;
}

static int refuse(const RopeFile *f, const char *name, const char *expected, double found, Err *e)
{
    return err_set(e, "%s: key '%s.%s': expected %s, found %g", f->g->path, f->arch, name, expected,
                   found);
}

static int is_one(double x)
{
    return x >= 1 && x <= 1;
}

static void add(char *spec, const char *key, double v)
{
    size_t n = strlen(spec);
    snprintf(spec + n, ROPE_SPEC - n, "%c%s=%.17g", strchr(spec, ':') ? ',' : ':', key, v);
}

/* The amplitude A = 0.1 ln s + 1 (over that of log_mul, if there is one) is the kind's own rule;
 * attn multiplies it. Pitfall: converters put Hugging Face's attention_factor into
 * yarn_attn_factor, which llama.cpp overwrites by A: where they differ a file has two readings, and
 * is refused. */
static int yarn_spec(const RopeFile *f, const Scaling *s, char spec[ROPE_SPEC], Err *e)
{
    double A = s->factor > 1 ? 0.1 * log(s->factor) + 1 : 1;
    int same = fabs(s->yarn_attn / A - 1) < 1e-5;
    if (s->yarn_attn > 0 && !is_one(s->yarn_attn) && !same)
        return refuse(f, "rope.scaling.yarn_attn_factor",
                      "1, or what follows from the factor (llama.cpp computes with that, Hugging "
                      "Face with this key: --rope yarn:attention_factor=... says which)",
                      s->yarn_attn, e);
    snprintf(spec, ROPE_SPEC, "yarn:factor=%.17g", s->factor);
    if (s->fast > 0) add(spec, "beta_fast", s->fast);
    if (s->slow > 0) add(spec, "beta_slow", s->slow);
    if (s->log_mul > 0) add(spec, "mscale", 1);
    if (s->log_mul > 0) add(spec, "mscale_all_dim", s->log_mul);
    if (!is_one(s->attn)) add(spec, "attn_factor", s->attn);
    if (s->ext >= 0 && !is_one(s->ext)) add(spec, "ext_factor", s->ext);
    return 0;
}

/* Scaled or not, without a ramp: pairs divided by the factor, cos and sin multiplied by attn. */
static int linear_spec(const RopeFile *f, const Scaling *s, char spec[ROPE_SPEC], Err *e)
{
    int many = !is_one(s->factor) + (s->alpha > 0) + (s->alibi > 0) + !is_one(s->attn);
    if (s->ext > 0)
        return refuse(f, "rope.scaling.yarn_ext_factor", "0 where the type is not 'yarn'", s->ext,
                      e);
    snprintf(spec, ROPE_SPEC, "%s", is_one(s->factor) ? "plain" : "linear");
    if (!is_one(s->factor)) add(spec, "factor", s->factor);
    if (s->alpha > 0) {
        if (many > 1)
            return refuse(f, "rope.scaling.alpha", "0 beside another scaling", s->alpha, e);
        snprintf(spec, ROPE_SPEC, "ntk:alpha=%.17g", s->alpha);
    }
    if (s->alibi > 0) {
        if (many > 1)
            return refuse(f, "attention.max_alibi_bias", "0 beside rope.scaling", s->alibi, e);
        snprintf(spec, ROPE_SPEC, "alibi:max_bias=%.17g,under=plain", s->alibi);
    }
    if (!is_one(s->attn)) {
        snprintf(spec, ROPE_SPEC, "yarn:factor=%.17g", s->factor);
        add(spec, "attn_factor", s->attn);
        add(spec, "ext_factor", 0);
    }
    return 0;
}

/* Lists of divisors for short and long texts, and the amplitude as it is. */
static int longrope_spec(const RopeFile *f, const Scaling *s, char spec[ROPE_SPEC], Err *e)
{
    if (!is_one(s->factor))
        return refuse(f, "rope.scaling.factor", "1 (the lists say it all) for type 'longrope'",
                      s->factor, e);
    if (s->alpha > 0) return refuse(f, "rope.scaling.alpha", "0 for type 'longrope'", s->alpha, e);
    if (s->alibi > 0)
        return refuse(f, "attention.max_alibi_bias", "0 for type 'longrope'", s->alibi, e);
    snprintf(spec, ROPE_SPEC, "longrope:factor=1,attention_factor=%.17g", s->attn);
    return 0;
}

/* Does the file have a tensor of that name, for layer 0 or for all? */
static int has_tensor(const RopeFile *f, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "blk.0.%s", name);
    return gguf_tensor(f->g, name) || gguf_tensor(f->g, full);
}

static int spec_of_keys(const RopeFile *f, const Scaling *s, char spec[ROPE_SPEC], Err *e)
{
    int lists = has_tensor(f, "rope_factors_short.weight");
    int is_long = str_is(s->type, "longrope") || (lists && !s->typed);
    if (is_long && !lists)
        return err_set(e,
                       "%s: tensor 'rope_factors_short.weight': expected, as "
                       "%s.rope.scaling.type is 'longrope', found none",
                       f->g->path, f->arch);
    if (lists && !is_long)
        return err_set(e,
                       "%s: key '%s.rope.scaling.type': expected 'longrope', as there is a tensor "
                       "'rope_factors_short.weight', found '%.*s'",
                       f->g->path, f->arch, s->type.n < 80 ? (int)s->type.n : 80, s->type.s);
    if (is_long && has_tensor(f, "rope_freqs.weight"))
        return err_set(e,
                       "%s: tensor 'rope_freqs.weight': expected none beside "
                       "rope_factors_short.weight",
                       f->g->path);
    if (is_long) return longrope_spec(f, s, spec, e);
    if (str_is(s->type, "none") || str_is(s->type, "linear")) return linear_spec(f, s, spec, e);
    if (!str_is(s->type, "yarn"))
        return err_set(e,
                       "%s: key '%s.rope.scaling.type': expected 'none', 'linear', 'yarn' or "
                       "'longrope', found '%.*s', which this program does not have",
                       f->g->path, f->arch, s->type.n < 80 ? (int)s->type.n : 80, s->type.s);
    if (s->alpha > 0) return refuse(f, "rope.scaling.alpha", "0 for type 'yarn'", s->alpha, e);
    if (s->alibi > 0)
        return refuse(f, "attention.max_alibi_bias", "0 for type 'yarn'", s->alibi, e);
    return yarn_spec(f, s, spec, e);
}

int rope_read(const char *where, const char *text, RopeSpec *s, Err *e)
{
    Err why = {.usage = 0};
    if (rope_parse(text, &s->p, &s->kind, &why) == 0) return 0;
    return err_set(e, "%s: %.800s", where, why.msg + (strncmp(why.msg, "--", 2) ? 0 : 2));
}

/* One text of ropescope.rope. A model file may not name other files. */
static int own_spec(const RopeFile *f, Str text, RopeSpec *s, Err *e)
{
    char spec[ROPE_SPEC], where[600];
    if (text.n >= sizeof spec || memchr(text.s, 0, text.n))
        return err_set(e, "%s: key 'ropescope.rope': expected a text of up to %zu bytes, found %zu",
                       f->g->path, sizeof spec - 1, text.n);
    memcpy(spec, text.s, text.n);
    spec[text.n] = 0;
    snprintf(where, sizeof where, "%.500s: key 'ropescope.rope'", f->g->path);
    s->p.divisors = NULL;
    s->p.factor = 1;
    if (rope_read(where, spec, s, e)) return -1;
    if (!s->p.file) return 0;
    return err_set(e, "%s: file: a model file may not name another", where);
}

/* 1 if the file has the key of our own, which is then obeyed; 0, -1. */
static int own_key(const RopeFile *f, RopeSpec *spec, Err *e)
{
    const GgufKey *k = gguf_find(f->g, "ropescope.rope");
    Str *text = NULL, one = {"", 0};
    size_t n = 1;
    int bad = 0, list = k && k->type == GGUF_ARR;
    if (!k) return 0;
    if (list ? gguf_strs(f->g, "ropescope.rope", &text, &n, e) < 0
             : gguf_str(f->g, "ropescope.rope", &one, e) < 0)
        return -1;
    if (list && n != (size_t)f->n_layers)
        bad = err_set(e,
                      "%s: key 'ropescope.rope': expected one text, or %d (one per layer), found "
                      "%zu",
                      f->g->path, f->n_layers, n);
    for (int l = 0; !bad && l < f->n_layers; l++)
        bad = own_spec(f, list ? text[l] : one, &spec[l], e);
    free(text);
    return bad ? -1 : 1;
}

/* turns[n_layers]: 1: the layer turns. 0 or -1. */
static int read_turns(const RopeFile *f, int *turns, Err *e)
{
    char key[128];
    int tuned = 1;
    key_of(f, "rope.scaling.finetuned", key);
    if (f->untuned_nope && gguf_bool(f->g, key, &tuned, e) < 0) return -1;
    for (int l = 0; l < f->n_layers; l++)
        turns[l] = tuned && (!f->nope_every || (l + 1) % f->nope_every);
    key_of(f, "attention.rope_pattern", key);
    return gguf_per_layer(f->g, key, 0, 1, turns, f->n_layers, e) < 0 ? -1 : 0;
}

int rope_file_kind(const RopeFile *f, RopeSpec *spec, Err *e)
{
    Scaling s;
    char text[ROPE_SPEC], key[128];
    int own = own_key(f, spec, e);
    if (own) return own < 0 ? -1 : 0;
    if (refuse_others(f, e) || refuse_sections(f, e) || read_scaling(f, &s, e) ||
        spec_of_keys(f, &s, text, e))
        return -1;
    int *turns = xcalloc((size_t)f->n_layers, sizeof *turns), bad = read_turns(f, turns, e);
    int unscaled = f->local_scaling == LOCAL_PLAIN;
    if (f->local_scaling == LOCAL_BY_BASE)
        unscaled = gguf_find(f->g, key_of(f, "rope.freq_base_swa", key)) != NULL;
    for (int l = 0; !bad && l < f->n_layers; l++) {
        int local = unscaled && f->local[l];
        if (local) spec[l].p.divisors = NULL;
        bad = rope_read(f->g->path, !turns[l] ? "none" : local ? "plain" : text, &spec[l], e);
        if (!bad) spec[l].p.factor = local ? 1 : s.factor;
    }
    free(turns);
    return bad ? -1 : 0;
}
