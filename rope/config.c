/* The encoding that config.json of a Hugging Face checkpoint asks for: a text as --rope takes it,
 * for every layer. Both generations of keys are read (rope_theta and rope_scaling; rope_parameters
 * of version 5, flat or with one object per type of layer); where both say something, what stands
 * inside goes first. An object of scaling with a type or a key that is not known here is refused,
 * and so is every key of the model that speaks of rope, rotary or alibi and is not known. A key
 * whose value is null is one that is not there (but see truncate). */
#include "../model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What the type of a layer changes where the config has one object of scaling for all: nothing;
 * layers that see everything do not turn; layers with a window are not scaled. */
enum { ALIKE, TURNS_IF_LOCAL, SCALED_IF_GLOBAL };

/* What a family of models leaves unsaid in its config (transformers 5, configuration_*.py,
 * modeling_*.py). */
typedef struct {
    const char *model_type;
    double base, fraction; /* of the values of a head that turn */
    double local_base;     /* of layers with a window; 0: base */
    int nope_every;        /* 0: all layers turn */
    int global_every;      /* one layer in so many sees everything; 0: there is no such pattern */
    int head_dim;          /* 0: hidden_size / num_attention_heads */
    int by_type;           /* ALIKE ... */
} Family;

static const Family families[] = {
    {"llama", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"mistral", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"qwen2", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"qwen3", 1e4, 1, 0, 0, 0, 128, ALIKE},
    {"phi", 1e4, 0.5, 0, 0, 0, 0, ALIKE},
    {"phi3", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"gpt_neox", 1e4, 0.25, 0, 0, 0, 0, ALIKE},
    {"gptj", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"stablelm", 1e4, 0.25, 0, 0, 0, 0, ALIKE},
    {"glm", 1e4, 0.5, 0, 0, 0, 128, ALIKE},
    {"glm4", 1e4, 0.5, 0, 0, 0, 128, ALIKE},
    {"nemotron", 1e4, 0.5, 0, 0, 0, 0, ALIKE},
    {"persimmon", 1e4, 0.5, 0, 0, 0, 0, ALIKE},
    {"falcon", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"bloom", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"mpt", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"gemma", 1e4, 1, 0, 0, 0, 256, ALIKE},
    {"gemma2", 1e4, 1, 0, 0, 0, 256, ALIKE},
    {"gemma3", 1e6, 1, 1e4, 0, 6, 256, ALIKE},
    {"gemma3_text", 1e6, 1, 1e4, 0, 6, 256, ALIKE},
    {"vaultgemma", 1e4, 1, 0, 0, 0, 256, ALIKE},
    {"olmo", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"olmo2", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"olmo3", 5e5, 1, 0, 0, 4, 0, SCALED_IF_GLOBAL},
    {"granite", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"starcoder2", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"smollm3", 2e6, 1, 0, 4, 0, 0, ALIKE},
    {"llama4_text", 5e5, 1, 0, 4, 0, 128, ALIKE},
    {"gpt_oss", 1.5e5, 1, 0, 0, 0, 64, ALIKE},
    {"ministral", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"dots1", 1e4, 1, 0, 0, 0, 0, ALIKE},
    {"cohere", 5e5, 1, 0, 0, 0, 0, ALIKE},
    {"cohere2", 1e4, 1, 0, 0, 4, 0, TURNS_IF_LOCAL},
    {"exaone4", 1e4, 1, 0, 0, 4, 0, TURNS_IF_LOCAL},
};

/* Families whose layers are known to differ in ways that are not among these. */
static const char differ[] =
    " afmoe cohere2_moe exaone4_5 exaone_moe flint gemma3n gemma3n_text gemma4 gemma4_text "
    "granite_swa granitemoe_swa kolibri1 laguna mimo_v2_flash modernbert modernbert-decoder "
    "t5gemma2 t5gemma2_text ";

/* A config at work. */
typedef struct {
    const char *path;
    Str root; /* the object with the keys of the text model */
    const Family *family;
    int n_layers, head_dim;
    double base, local_base, fraction; /* what stands outside the scaling; NaN: not said */
    int n_rot;                         /* the same as a number of values; -1 */
    double n_ctx, original;            /* max_position_embeddings, original_...; NaN: not said */
    RopeConfig *out;
    Err *e;
} Config;

/* ---------------------------------------------------------------- values */

static int is_null(Str v)
{
    return !v.n || str_is(v, "null");
}

static int is_text(Str v, const char *text)
{
    return v.n >= 2 && *v.s == '"' && str_is((Str){v.s + 1, v.n - 2}, text);
}

static int shown(Str v) /* bytes of a value in a message */
{
    return v.n < 60 ? (int)v.n : 60;
}

static int wrong(const Config *c, const char *in, const char *key, const char *expected, Str v)
{
    return err_set(c->e, "%s: %s%s: expected %s, found %.*s", c->path, in, key, expected,
                   v.n ? shown(v) : 7, v.n ? v.s : "nothing");
}

/* A number of object o; `in` comes before the key in messages. 1 found, 0 absent or null, -1. */
static int number(const Config *c, Str o, const char *in, const char *key, double lo, double hi,
                  double *out)
{
    char range[80];
    Str v = json_member(o, key);
    double d = json_double(v);
    if (is_null(v)) return 0;
    if (d >= lo && d <= hi) {
        *out = d;
        return 1;
    }
    snprintf(range, sizeof range, "a number from %g to %g", lo, hi);
    return wrong(c, in, key, range, v);
}

static int whole(const Config *c, const char *key, int lo, int hi, int *out)
{
    double d = 0;
    int found = number(c, c->root, "", key, lo, hi, &d);
    if (found <= 0) return found;
    *out = (int)d;
    if (!(d > *out)) return 1;
    return wrong(c, "", key, "a whole number", json_member(c->root, key));
}

/* true or false. 1 found, 0 absent or null, -1. */
static int flag(const Config *c, Str o, const char *in, const char *key, int *out)
{
    Str v = json_member(o, key);
    if (is_null(v)) return 0;
    *out = str_is(v, "true");
    return *out || str_is(v, "false") ? 1 : wrong(c, in, key, "true or false", v);
}

/* Items of a list (or keys and values of an object), up to `most`. */
static int count(Str o, int most)
{
    size_t i = 1;
    int n = 0;
    while (n < most && json_item(o, &i).n) n++;
    return n;
}

/* No key twice: which one holds would be a matter of the reader. */
static int once(const Config *c, Str o, const char *in)
{
    enum { MOST = 2000 };
    size_t i = 1;
    if (count(o, MOST + 1) > MOST)
        return err_set(c->e, "%s: %sexpected at most %d keys, found more", c->path, in, MOST / 2);
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        size_t j = 1;
        Str first = json_item(o, &j), v = json_item(o, &i);
        for (; first.n != k.n || memcmp(first.s, k.s, k.n); first = json_item(o, &j))
            json_item(o, &j);
        if (first.s != k.s)
            return err_set(c->e, "%s: %s%.*s: expected once, found twice", c->path, in, shown(k),
                           k.s);
        (void)v;
    }
    return 0;
}

static int is_list(Str v)
{
    return v.n && *v.s == '[';
}

static int is_object(Str v)
{
    return v.n && *v.s == '{';
}

/* ---------------------------------------------------------------- a text for --rope */

static void add(ConfigRope *r, const char *key, const char *value)
{
    size_t n = strlen(r->spec);
    snprintf(r->spec + n, sizeof r->spec - n, "%c%s=%s", strchr(r->spec, ':') ? ',' : ':', key,
             value);
}

static void add_number(ConfigRope *r, const char *key, double v)
{
    char text[32];
    snprintf(text, sizeof text, "%.17g", v);
    add(r, key, text);
}

/* A scaling by its Hugging Face name: our kind, and the keys it may have besides those of all. */
typedef struct {
    const char *type, *kind, *keys;
} Type;

#define YARN_KEYS                                                                                  \
    " factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale "        \
    "mscale_all_dim truncate extrapolation_factor finetuned short_factor long_factor "
#define LONG_KEYS                                                                                  \
    " factor original_max_position_embeddings attention_factor short_factor long_factor "          \
    "short_mscale long_mscale "

static const Type types[] = {
    {"default", "plain", ""},
    {"linear", "linear", " factor "},
    {"dynamic", "dynamic",
     " factor original_max_position_embeddings alpha beta_fast beta_slow mscale mscale_all_dim "},
    {"yarn", "yarn", YARN_KEYS},
    {"deepseek_yarn", "yarn", YARN_KEYS},
    {"telechat3-yarn", "yarn", YARN_KEYS},
    {"longrope", "longrope", LONG_KEYS},
    {"su", "longrope", LONG_KEYS},
    {"llama3", "llama3",
     " factor original_max_position_embeddings low_freq_factor high_freq_factor "},
    {"proportional", "proportional", " factor "},
};

static const char any_type[] = " type rope_type rope_theta partial_rotary_factor ";

/* Is "key" one of the words in " a b c "? */
static int among(const char *words, Str key)
{
    char word[64];
    if (key.n < 3 || key.n > sizeof word - 2 || memchr(key.s, ' ', key.n)) return 0;
    snprintf(word, sizeof word, " %.*s ", (int)key.n - 2, key.s + 1);
    return strstr(words, word) != NULL;
}

static const Type *type_of(const Config *c, Str o, const char *in)
{
    Str v = json_member(o, "rope_type"), older = json_member(o, "type");
    char list[256] = "";
    const char *key = is_null(v) && !is_null(older) ? "type" : "rope_type";
    if (is_null(v)) v = older;
    if (is_null(v)) return &types[0];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t n = strlen(list);
        if (is_text(v, types[i].type)) return &types[i];
        snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", types[i].type);
    }
    wrong(c, in, key, list, v);
    return NULL;
}

/* The type, once every key is known to be one that it has. */
static const Type *known_type(const Config *c, Str o, const char *in)
{
    const Type *t = type_of(c, o, in);
    size_t i = 1;
    if (!t || once(c, o, in)) return NULL;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        if (is_null(v) || among(any_type, k) || among(t->keys, k)) continue;
        err_set(c->e, "%s: %s%.*s: not a key of type '%s' that this program knows", c->path, in,
                shown(k), k.s, t->type);
        return NULL;
    }
    return t;
}

/* ---------------------------------------------------------------- the scalings */

/* One object of scaling and what it becomes. */
typedef struct {
    const Config *c;
    Str o;
    const char *in; /* "rope_scaling." */
    ConfigRope *r;
    double factor, original; /* NaN: not said */
} Scaled;

static int copy(const Scaled *s, const char *key, const char *ours, double lo, double hi)
{
    double v = 0;
    int found = number(s->c, s->o, s->in, key, lo, hi, &v);
    if (found == 1) add_number(s->r, ours, v);
    return found;
}

static int required(const Scaled *s, const char *key)
{
    return wrong(s->c, s->in, key, "a number", (Str){NULL, 0});
}

/* The length trained for: at the top it goes first (Phi-3), then inside, then what the model may
 * take now. */
static int add_original(Scaled *s)
{
    int found =
        number(s->c, s->o, s->in, "original_max_position_embeddings", 1, INT_MAX, &s->original);
    if (found < 0) return -1;
    if (!isnan(s->c->original)) s->original = s->c->original;
    if (isnan(s->original)) s->original = s->c->n_ctx;
    if (isnan(s->original)) return required(s, "original_max_position_embeddings");
    add_number(s->r, "original", floor(s->original));
    return 0;
}

/* The factor, or what the context has grown by. */
static int add_factor(Scaled *s)
{
    int found = number(s->c, s->o, s->in, "factor", 1e-6, 1e6, &s->factor);
    if (found < 0) return -1;
    if (!found && isnan(s->c->n_ctx)) return required(s, "factor");
    if (!found) s->factor = s->c->n_ctx / s->original;
    add_number(s->r, "factor", s->factor);
    return 0;
}

/* 0.07 in place of 0.1: f(s, m) = 0.07 m ln s + 1. */
static double telechat_mscale(double s, double m)
{
    return s <= 1 ? 1 : 0.07 * m * log(s) + 1;
}

/* The amplitude: a number, or f(s, mscale) / f(s, mscale_all_dim) if both are there and not 0, or
 * f(s, 1). */
static int yarn_amplitude(Scaled *s, int telechat)
{
    double m = 0, all = 0;
    int found = copy(s, "attention_factor", "attention_factor", 0, 1e6);
    if (found < 0 || number(s->c, s->o, s->in, "mscale", 0, 1e6, &m) < 0 ||
        number(s->c, s->o, s->in, "mscale_all_dim", 0, 1e6, &all) < 0)
        return -1;
    int both = m > 0 && all > 0;
    if (found) return 0;
    if (telechat) {
        double A = both ? telechat_mscale(s->factor, m) / telechat_mscale(s->factor, all)
                        : telechat_mscale(s->factor, 1);
        add_number(s->r, "attention_factor", A);
    } else if (both) {
        add_number(s->r, "mscale", m);
        add_number(s->r, "mscale_all_dim", all);
    }
    return 0;
}

/* Null and 0 are Hugging Face's default. */
static int yarn_beta(Scaled *s, const char *key)
{
    double v = 0;
    if (number(s->c, s->o, s->in, key, 0, 1e9, &v) < 0) return -1;
    if (v > 0) add_number(s->r, key, v);
    return 0;
}

static int yarn(Scaled *s, const Type *t)
{
    int truncate = !str_is(json_member(s->o, "truncate"), "null"); /* null: false, there */
    if (add_original(s) || add_factor(s) || yarn_beta(s, "beta_fast") ||
        yarn_beta(s, "beta_slow") || yarn_amplitude(s, strstr(t->type, "telechat") != NULL) ||
        copy(s, "extrapolation_factor", "ext_factor", 0, 1) < 0 ||
        flag(s->c, s->o, s->in, "truncate", &truncate) < 0)
        return -1;
    if (!truncate) add(s->r, "truncate", "no");
    return 0;
}

/* Grows with the text from max_position_embeddings on. HunYuan's alpha is another base for good;
 * its other keys are without effect there. */
static int dynamic(Scaled *s)
{
    double alpha = 0, was = s->c->n_ctx;
    int found = number(s->c, s->o, s->in, "alpha", 1e-6, 1e9, &alpha);
    if (found < 0) return -1;
    if (found) {
        snprintf(s->r->spec, sizeof s->r->spec, "ntk");
        add_number(s->r, "alpha", alpha);
        if (number(s->c, s->o, s->in, "factor", 1, 1, &was) < 0) return -1;
        return 0;
    }
    static const char *const other[] = {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"};
    for (int i = 0; i < 4; i++)
        if (!is_null(json_member(s->o, other[i])))
            return wrong(s->c, s->in, other[i], "nothing without alpha",
                         json_member(s->o, other[i]));
    if (isnan(was)) return wrong(s->c, "", "max_position_embeddings", "a number", (Str){NULL, 0});
    if (number(s->c, s->o, s->in, "original_max_position_embeddings", was, was, &was) < 0)
        return -1;
    add_number(s->r, "original", was);
    found = copy(s, "factor", "factor", 1e-6, 1e6);
    return found > 0 ? 0 : found ? -1 : required(s, "factor");
}

static int add_list(Scaled *s, int at, const char *key, const char *name)
{
    Str list = json_member(s->o, key);
    size_t i = 1;
    int n = is_list(list) ? count(list, MAX_PAIRS + 1) : 0;
    if (!n) return wrong(s->c, s->in, key, "a list of numbers", list);
    if (n > MAX_PAIRS)
        return err_set(s->c->e, "%s: %s%s: expected at most %d numbers, found more", s->c->path,
                       s->in, key, MAX_PAIRS);
    RopeList *to = &s->r->list[at];
    *to = (RopeList){name, xcalloc((size_t)n, sizeof *to->v), n};
    for (int k = 0; k < n; k++) {
        Str v = json_item(list, &i);
        double d = json_double(v);
        if (!(d >= 1e-6 && d <= 1e30)) return wrong(s->c, s->in, key, "numbers above 0", v);
        to->v[k] = (float)d;
    }
    return 0;
}

static int longrope(Scaled *s)
{
    if (add_original(s) || add_factor(s) ||
        copy(s, "attention_factor", "attention_factor", 0, 1e6) < 0 ||
        copy(s, "short_mscale", "short_mscale", 1e-6, 1e6) < 0 ||
        copy(s, "long_mscale", "long_mscale", 1e-6, 1e6) < 0)
        return -1;
    return add_list(s, 0, "short_factor", "rope_factors_short.weight") ||
                   add_list(s, 1, "long_factor", "rope_factors_long.weight")
               ? -1
               : 0;
}

static int llama3(Scaled *s)
{
    int factor, low, high;
    if (add_original(s) || (factor = copy(s, "factor", "factor", 1e-6, 1e6)) < 0 ||
        (low = copy(s, "low_freq_factor", "low", 1e-6, 1e6)) < 0 ||
        (high = copy(s, "high_freq_factor", "high", 1e-6, 1e6)) < 0)
        return -1;
    if (factor && low && high) return 0;
    return required(s, !factor ? "factor" : !low ? "low_freq_factor" : "high_freq_factor");
}

/* Keys of the kind that the object asks for. */
static int scaling(Scaled *s, const Type *t)
{
    int found;
    int lists = is_list(json_member(s->o, "short_factor"));
    if (strcmp(t->kind, "yarn") == 0 && lists) { /* early Phi-3 */
        snprintf(s->r->spec, sizeof s->r->spec, "longrope");
        return longrope(s);
    }
    snprintf(s->r->spec, sizeof s->r->spec, "%s", t->kind);
    if (strcmp(t->kind, "yarn") == 0) return yarn(s, t);
    if (strcmp(t->kind, "dynamic") == 0) return dynamic(s);
    if (strcmp(t->kind, "longrope") == 0) return longrope(s);
    if (strcmp(t->kind, "llama3") == 0) return llama3(s);
    found = strcmp(t->kind, "plain") ? copy(s, "factor", "factor", 1e-6, 1e6) : 1;
    if (found < 0) return -1;
    return !found && strcmp(t->kind, "linear") == 0 ? required(s, "factor") : 0;
}

/* base and the share that turns: inside, then outside, then what the family is known to have. */
static int shape(const Scaled *s, const Type *t, double base, int local)
{
    const Config *c = s->c;
    double fraction = c->fraction;
    int n_rot = c->n_rot;
    if (number(c, s->o, s->in, "rope_theta", 1, 1e12, &base) < 0) return -1;
    int inside = number(c, s->o, s->in, "partial_rotary_factor", 0, 1, &fraction);
    if (inside < 0) return -1;
    if (isnan(base) && c->family)
        base = local && c->family->local_base > 0 ? c->family->local_base : c->family->base;
    if (isnan(base))
        return err_set(c->e,
                       "%s: rope_theta: expected a number, found nothing, and no model_type "
                       "that says it",
                       c->path);
    if (isnan(fraction) && n_rot < 0) fraction = c->family ? c->family->fraction : 1;
    add_number(s->r, "base", base);
    if (strcmp(t->kind, "proportional") == 0) {
        add_number(s->r, "fraction", isnan(fraction) ? 1 : fraction);
        return 0;
    }
    if (inside || n_rot < 0) n_rot = (int)(c->head_dim * fraction);
    if (n_rot > c->head_dim || n_rot % 2)
        return err_set(c->e,
                       "%s: expected an even number, up to %d, of values of a head that turn, "
                       "found %d",
                       c->path, c->head_dim, n_rot);
    if (n_rot < c->head_dim) add_number(s->r, "n_rot", n_rot);
    return 0;
}

/* "rope_scaling." without its point. */
static const char *whole_name(const char *in, char name[96])
{
    size_t n = strlen(in);
    snprintf(name, 96, "%.*s", (int)(n - (n > 0)), in);
    return name;
}

/* A further encoding of the config; its number, or -1. o: an object of scaling, or nothing. */
static int add_rope(Config *c, Str o, const char *in, double base, int local)
{
    if (c->out->n == CONFIG_ROPES)
        return err_set(c->e, "%s: %sexpected at most %d encodings, found more", c->path, in,
                       CONFIG_ROPES);
    char name[96];
    ConfigRope *r = &c->out->rope[c->out->n++];
    Scaled s = {c, is_null(o) ? (Str){"{}", 2} : o, in, r, (double)NAN, (double)NAN};
    if (!is_object(s.o)) return wrong(c, whole_name(in, name), "", "an object", o);
    const Type *t = known_type(c, s.o, in);
    return !t || scaling(&s, t) || shape(&s, t, base, local) ? -1 : c->out->n - 1;
}

/* An encoding that is not made from an object of scaling. */
static int add_text(Config *c, const char *spec)
{
    if (c->out->n == CONFIG_ROPES)
        return err_set(c->e, "%s: expected at most %d encodings, found more", c->path,
                       CONFIG_ROPES);
    snprintf(c->out->rope[c->out->n].spec, ROPE_SPEC, "%s", spec);
    return c->out->n++;
}

/* ---------------------------------------------------------------- layers */

#define FULL    ((Str){"\"full_attention\"", 16})
#define SLIDING ((Str){"\"sliding_attention\"", 19})

static int same(Str a, Str b)
{
    return a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
}

/* The type of each layer, in quotes. 1 known, 0 nothing is said (all are of one), -1. */
static int layer_types(const Config *c, Str *type)
{
    Str list = json_member(c->root, "layer_types");
    int every = c->family ? c->family->global_every : 0;
    size_t i = 1;
    if (is_null(list)) {
        int found = whole(c, "sliding_window_pattern", 1, 65536, &every);
        for (int l = 0; l < c->n_layers; l++) type[l] = every && (l + 1) % every ? SLIDING : FULL;
        return found < 0 ? -1 : every > 0;
    }
    if (!is_list(list) || count(list, c->n_layers + 1) != c->n_layers)
        return wrong(c, "", "layer_types", "a list with one name for each layer", list);
    for (int l = 0; l < c->n_layers; l++) {
        type[l] = json_item(list, &i);
        if (*type[l].s != '"') return wrong(c, "", "layer_types", "names", type[l]);
    }
    return 1;
}

/* The value of a key in quotes. */
static Str named(Str o, Str key)
{
    size_t i = 1;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        if (same(k, key)) return v;
    }
    return (Str){NULL, 0};
}

/* {"full_attention": {...}, "sliding_attention": {...}}: an object for each type of layer; null:
 * layers of that type do not turn. */
static int per_type(Config *c, Str o, const char *in, const Str *type)
{
    size_t i = 1;
    if (once(c, o, in)) return -1;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        int l = 0;
        while (l < c->n_layers && !same(type[l], k)) l++;
        if (l == c->n_layers && !is_null(v) && !is_object(v))
            return err_set(c->e, "%s: %s%.*s: expected types of layers", c->path, in, shown(k),
                           k.s);
    }
    for (int l = 0; l < c->n_layers; l++) {
        int before = 0, is_local = same(type[l], SLIDING);
        char deep[96], name[80];
        while (!same(type[before], type[l])) before++;
        Str v = named(o, type[l]);
        snprintf(name, sizeof name, "%.*s", shown(type[l]), type[l].s);
        snprintf(deep, sizeof deep, "%.*s%s.", 14, in, name);
        if (!v.n) return wrong(c, in, name, "an object, as there are such layers", v);
        if (before < l)
            c->out->of_layer[l] = c->out->of_layer[before];
        else
            c->out->of_layer[l] =
                is_null(v) ? add_text(c, "none")
                           : add_rope(c, v, deep, is_local ? c->local_base : c->base, is_local);
        if (c->out->of_layer[l] < 0) return -1;
    }
    return 0;
}

/* Does an object hold objects, one per type of layer? */
static int is_nested(const Config *c, Str o, const Str *type)
{
    size_t i = 1;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        for (int l = 0; l < c->n_layers; l++)
            if (same(k, type[l]) && (is_object(v) || is_null(v))) return 1;
        if ((same(k, FULL) || same(k, SLIDING)) && is_object(v)) return 1;
    }
    return 0;
}

/* Layers may differ by their types in ways that one object of scaling does not say. */
static int refuse_types(const Config *c, Str o, const char *in, const Str *type)
{
    const Family *f = c->family;
    Str name = json_member(c->root, "model_type");
    int l = 0, split = f && (f->by_type == SCALED_IF_GLOBAL || f->local_base > 0);
    while (l < c->n_layers && same(type[l], type[0])) l++;
    if (split && is_object(o) && strcmp(in, "rope_parameters.") == 0)
        return err_set(c->e,
                       "%s: rope_parameters: expected an object for each type of layer, as model_"
                       "type is '%s'",
                       c->path, f->model_type);
    if (f || (!among(differ, name) && (l == c->n_layers || !isnan(c->local_base)))) return 0;
    return err_set(c->e,
                   "%s: model_type: expected one of those known here, or rope_parameters with an "
                   "object for each type of layer, as layers of different types may turn in "
                   "different ways, found %.*s",
                   c->path, name.n ? shown(name) : 7, name.n ? name.s : "nothing");
}

/* Cohere 2, EXAONE 4: only layers with a window turn; without any window EXAONE's all do. */
static int turns_if_local(Config *c, Str o, const char *in, const Str *type)
{
    int still = -1, all = add_rope(c, o, in, c->base, 0);
    int no_window = str_is(json_member(c->root, "sliding_window"), "null");
    if (all < 0) return -1;
    if (no_window && strcmp(c->family->model_type, "exaone4"))
        return wrong(c, "", "sliding_window", "a number", json_member(c->root, "sliding_window"));
    for (int l = 0; l < c->n_layers; l++) {
        int turns = no_window || same(type[l], SLIDING);
        if (!turns && still < 0 && (still = add_text(c, "none")) < 0) return -1;
        c->out->of_layer[l] = turns ? all : still;
    }
    return 0;
}

/* All layers alike; or, where there is a second base, layers with a window of it, unscaled. */
static int for_all(Config *c, Str o, const char *in, const Str *type, int known)
{
    double second = c->local_base;
    int by_type = c->family ? c->family->by_type : ALIKE;
    if (refuse_types(c, o, in, type)) return -1;
    if (by_type == TURNS_IF_LOCAL) return turns_if_local(c, o, in, type);
    if (isnan(second) && c->family && c->family->local_base > 0) second = c->family->local_base;
    if (by_type == SCALED_IF_GLOBAL) {
        second = c->family->base;
        if (!isnan(c->base) && (c->base < second || c->base > second)) /* read in two ways */
            return err_set(c->e,
                           "%s: rope_theta: expected %g, or rope_parameters with an object for "
                           "each type of layer, found %g",
                           c->path, second, c->base);
    }
    if (!isnan(second) && !known)
        return err_set(c->e,
                       "%s: rope_local_base_freq: expected layer_types beside it, or "
                       "sliding_window_pattern",
                       c->path);
    int all = add_rope(c, o, in, c->base, 0), locals = all;
    if (all < 0) return -1;
    if (!isnan(second)) locals = add_rope(c, (Str){NULL, 0}, "", second, 1);
    for (int l = 0; l < c->n_layers; l++)
        c->out->of_layer[l] = same(type[l], SLIDING) ? locals : all;
    return locals < 0 ? -1 : 0;
}

/* Llama 4: the queries of layers that do not turn grow with the position. */
static int nope_rope(Config *c)
{
    char spec[ROPE_SPEC] = "none";
    int tuned = c->family && strcmp(c->family->model_type, "llama4_text") == 0;
    double scale = 0.1, step = 8192;
    if (flag(c, c->root, "", "attn_temperature_tuning", &tuned) < 0 ||
        number(c, c->root, "", "attn_scale", 0, 1000, &scale) < 0 ||
        number(c, c->root, "", "floor_scale", 1, 1e15, &step) < 0)
        return -1;
    if (tuned)
        snprintf(spec, sizeof spec, "nope-layers:every=1,attn_scale=%.17g,floor_scale=%.17g", scale,
                 step);
    return add_text(c, spec);
}

/* no_rope_layers: for each layer, 0: it does not turn; else every no_rope_layer_interval-th one. */
static int nope_layers(Config *c)
{
    Str list = json_member(c->root, "no_rope_layers");
    int every = c->family ? c->family->nope_every : 0, none = -1;
    size_t i = 1;
    if (whole(c, "no_rope_layer_interval", 1, 65536, &every) < 0) return -1;
    int said = !is_null(list) && !(is_list(list) && count(list, 1) == 0);
    if (said && (!is_list(list) || count(list, c->n_layers + 1) != c->n_layers))
        return wrong(c, "", "no_rope_layers", "a list with 1 or 0 for each layer", list);
    for (int l = 0; l < c->n_layers && (said || every); l++) {
        Str v = said ? json_item(list, &i) : (Str){NULL, 0};
        int turns = said ? str_is(v, "1") : (l + 1) % every != 0;
        if (said && !turns && !str_is(v, "0")) return wrong(c, "", "no_rope_layers", "1 or 0", v);
        if (turns) continue;
        if (none < 0 && (none = nope_rope(c)) < 0) return -1;
        c->out->of_layer[l] = none;
    }
    return 0;
}

/* ALiBi in the place of rotation: BLOOM, MPT, Falcon. 1 it is so, 0, -1. */
static int alibi(Config *c)
{
    Str attn = json_member(c->root, "attn_config"), o = is_object(attn) ? attn : c->root;
    const char *type = c->family ? c->family->model_type : "";
    int on = strcmp(type, "bloom") == 0 || strcmp(type, "mpt") == 0, rope = 0, at;
    double most = 8;
    char spec[ROPE_SPEC];
    if (flag(c, o, "", "alibi", &on) < 0 || flag(c, o, "", "rope", &rope) < 0 ||
        number(c, o, "", "alibi_bias_max", 0, 1000, &most) < 0)
        return -1;
    if (!on && o.s != c->root.s)
        return wrong(c, "attn_config.", "alibi", "true, or no attn_config",
                     json_member(o, "alibi"));
    if (!on) return 0;
    if (rope) return wrong(c, "", "alibi", "false beside rope", json_member(o, "alibi"));
    snprintf(spec, sizeof spec, "alibi:max_bias=%.17g", most);
    at = add_text(c, spec);
    for (int l = 0; at >= 0 && l < c->n_layers; l++) c->out->of_layer[l] = at;
    return at < 0 ? -1 : 1;
}

/* ---------------------------------------------------------------- the whole file */

/* Keys outside the scaling that this reader obeys. */
static const char root_keys[] =
    " rope_theta rotary_emb_base rope_ratio rope_local_base_freq partial_rotary_factor rotary_pct "
    "rope_pct rope_percent rotary_dim rope_scaling rope_parameters no_rope_layers "
    "no_rope_layer_interval alibi alibi_bias_max rope ";

static int has_word(Str key, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= key.n; i++)
        if (memcmp(key.s + i, word, n) == 0) return 1;
    return 0;
}

/* Whatever else speaks of the encoding: unless it is off, it cannot be obeyed. */
static int refuse_others(const Config *c, Str o)
{
    size_t i = 1;
    for (Str k = json_item(o, &i); k.n; k = json_item(o, &i)) {
        Str v = json_item(o, &i);
        int about = has_word(k, "rope") || has_word(k, "rotary") || has_word(k, "alibi");
        if (!about || is_null(v) || str_is(v, "false") || among(root_keys, k)) continue;
        return err_set(c->e,
                       "%s: %.*s: not a key that this program knows; ignoring it could give "
                       "wrong results",
                       c->path, shown(k), k.s);
    }
    Str kind = json_member(o, "position_embedding_type");
    if (is_null(kind) || is_text(kind, "rope") || is_text(kind, "rope_gptj") ||
        is_text(kind, "rotary"))
        return 0;
    return wrong(c, "", "position_embedding_type", "\"rope\"", kind);
}

/* Numbers outside the scaling, under the names of many families. */
static int read_root(Config *c)
{
    double ratio = 0;
    Str o = c->root;
    if (number(c, o, "", "rotary_emb_base", 1, 1e12, &c->base) < 0 ||
        number(c, o, "", "rope_ratio", 1e-3, 1e8, &ratio) < 0 ||
        number(c, o, "", "rope_theta", 1, 1e12, &c->base) < 0 ||
        number(c, o, "", "rope_local_base_freq", 1, 1e12, &c->local_base) < 0 ||
        number(c, o, "", "rotary_pct", 0, 1, &c->fraction) < 0 ||
        number(c, o, "", "rope_pct", 0, 1, &c->fraction) < 0 ||
        number(c, o, "", "rope_percent", 0, 1, &c->fraction) < 0 ||
        number(c, o, "", "partial_rotary_factor", 0, 1, &c->fraction) < 0 ||
        whole(c, "rotary_dim", 0, c->head_dim, &c->n_rot) < 0 ||
        number(c, o, "", "n_positions", 1, INT_MAX, &c->n_ctx) < 0 ||
        number(c, o, "", "seq_length", 1, INT_MAX, &c->n_ctx) < 0 ||
        number(c, o, "", "max_position_embeddings", 1, INT_MAX, &c->n_ctx) < 0 ||
        number(c, o, "", "original_max_position_embeddings", 1, INT_MAX, &c->original) < 0)
        return -1;
    if (ratio > 0 && isnan(c->base)) c->base = 1e4 * ratio;
    return 0;
}

/* The first of these keys that is there; NULL: none, or *bad. */
static const char *first_of(const Config *c, const char *const *key, int *out, int *bad)
{
    for (; *key; key++) {
        int found = whole(c, *key, 1, 1 << 24, out);
        if (found < 0) *bad = -1;
        if (found) return found > 0 ? *key : NULL;
    }
    return NULL;
}

/* A config of another model: its numbers of layers and of values per head are not those here. */
static int refuse_shape(const Config *c)
{
    static const char *const layers[] = {"num_hidden_layers", "n_layer", "n_layers", "num_layers",
                                         NULL},
                             *const widths[] = {"hidden_size", "n_embd", "n_embed", "d_model",
                                                NULL},
                             *const heads[] = {"num_attention_heads", "n_head", "n_heads", NULL},
                             *const dims[] = {"head_dim", NULL};
    int bad = 0, L = c->n_layers, E = 0, H = 1, D = 0;
    const char *of_layers = first_of(c, layers, &L, &bad), *dim = first_of(c, dims, &D, &bad),
               *width = first_of(c, widths, &E, &bad), *head = first_of(c, heads, &H, &bad);
    if (bad) return -1;
    if (!dim && width && c->family) D = c->family->head_dim;
    if (L != c->n_layers)
        return err_set(c->e, "%s: %s: expected %d, as the model has, found %d", c->path, of_layers,
                       c->n_layers, L);
    if (D && D != c->head_dim)
        return err_set(c->e, "%s: head_dim: expected %d, as the model has, found %d%s", c->path,
                       c->head_dim, D, dim ? "" : " (that of model_type)");
    if (D || !width || !head || E / H == c->head_dim) return 0;
    return err_set(c->e, "%s: %s / %s: expected %d values per head, as the model has, found %d",
                   c->path, width, head, c->head_dim, E / H);
}

static int read_layers(Config *c)
{
    Str new = json_member(c->root, "rope_parameters"), old = json_member(c->root, "rope_scaling");
    const char *in = is_null(new) ? "rope_scaling." : "rope_parameters.";
    Str o = is_null(new) ? old : new;
    if (!is_null(new) && !is_null(old))
        return err_set(c->e, "%s: rope_scaling: expected nothing beside rope_parameters", c->path);
    int biased = alibi(c);
    if (biased) return biased < 0 ? -1 : 0;
    Str *type = xcalloc((size_t)c->n_layers, sizeof *type);
    int known = layer_types(c, type), bad = known < 0;
    if (!bad && is_object(o) && is_nested(c, o, type))
        bad = known ? per_type(c, o, in, type)
                    : err_set(c->e, "%s: %sfull_attention: expected layer_types outside", c->path,
                              in);
    else if (!bad)
        bad = for_all(c, o, in, type, known);
    free(type);
    return bad || nope_layers(c) ? -1 : 0;
}

int rope_config_parse(RopeConfig *out, const char *path, Str json, int n_layers, int head_dim,
                      Err *e)
{
    if (json.n >= 3 && memcmp(json.s, "\xEF\xBB\xBF", 3) == 0) json.s += 3, json.n -= 3; /* BOM */
    PageFile file = {path, json};
    Config c = {.path = path,
                .root = json_trim(json),
                .n_layers = n_layers,
                .head_dim = head_dim,
                .base = (double)NAN,
                .local_base = (double)NAN,
                .fraction = (double)NAN,
                .n_rot = -1,
                .n_ctx = (double)NAN,
                .original = (double)NAN,
                .out = out,
                .e = e};
    *out = (RopeConfig){.of_layer = xcalloc((size_t)n_layers, sizeof *out->of_layer)};
    int bad = json_whole(&file, e) || once(&c, c.root, "");
    Str text = bad ? c.root : json_member(c.root, "text_config");
    if (!bad && is_object(text)) { /* a model of pictures and text */
        c.root = text;
        bad = once(&c, text, "text_config.");
    }
    Str type = bad ? c.root : json_member(c.root, "model_type");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (is_text(type, families[i].model_type)) c.family = &families[i];
    bad = bad || refuse_shape(&c) || refuse_others(&c, c.root) || read_root(&c) || read_layers(&c);
    if (bad) rope_config_free(out);
    return bad ? -1 : 0;
}

int rope_config_open(RopeConfig *c, const char *path, int n_layers, int head_dim, Err *e)
{
    Bytes text = {0};
    int bad = bytes_read(&text, path, e);
    *c = (RopeConfig){.n = 0};
    bad = bad || rope_config_parse(c, path, (Str){text.s, text.n}, n_layers, head_dim, e);
    free(text.s);
    return bad ? -1 : 0;
}

void rope_config_free(RopeConfig *c)
{
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < 2; k++) free(c->rope[i].list[k].v);
    free(c->of_layer);
    *c = (RopeConfig){.n = 0};
}
