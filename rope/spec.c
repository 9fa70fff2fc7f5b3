/* An encoding in words: KIND or KIND:key=value,key=value. */
#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A key that is not of one kind alone. */
typedef struct {
    const char *name;
    double lo, hi;
    size_t field; /* of RopeParams */
    int whole;
    unsigned common; /* bit a kind must have; 0: all kinds have it */
    const char *meaning;
} CommonKey;

#define F(member) offsetof(RopeParams, member)
static const CommonKey common_keys[] = {
    {"base", 1e-9, 1e15, F(base), 0, 0,
     "the longest wavelength is a little under 2 pi base tokens"},
    {"n_rot", 0, 16384, F(n_rot), 1, 0, "values of a head that turn, an even number"},
    {"pos_scale", -1e9, 1e9, F(pos_scale), 0, 0, "token t is at position pos_shift + pos_scale t"},
    {"pos_shift", -1e15, 1e15, F(pos_shift), 0, 0, "the position of the first token"},
    {"factor", 1e-6, 1e6, F(factor), 0, ROPE_FACTOR,
     "how many times the trained context it is stretched to"},
    {"original", 1, 2147483647, F(n_ctx_orig), 1, ROPE_ORIGINAL,
     "tokens of the trained context, before any stretching"},
};
#undef F
enum { N_COMMON = sizeof common_keys / sizeof *common_keys };

RopeParams rope_params(int head_dim, double base)
{
    return (RopeParams){.head_dim = head_dim,
                        .n_rot = head_dim,
                        .base = base,
                        .factor = 1,
                        .pos_scale = 1,
                        .n_layers = 1,
                        .n_heads = 1,
                        .n_kv_heads = 1,
                        .score_scale = head_dim > 0 ? 1 / sqrt((double)head_dim) : 1,
                        .copies = 1,
                        .fold = {1, 0}};
}

static int has_common(const RopeKind *kind, const CommonKey *c)
{
    return !c->common || c->common & kind->common;
}

int rope_key(const RopeKind *kind, int i, RopeArg *k)
{
    const double none = (double)NAN;
    const RopeParams p = rope_params(0, none);
    for (int c = 0; c < N_COMMON; c++) {
        const CommonKey *key = &common_keys[c];
        if (!has_common(kind, key) || i-- > 0) continue;
        *k = (RopeArg){key->name, none, key->lo, key->hi, key->meaning, NULL};
        if (!key->whole) memcpy(&k->def, (const char *)&p + key->field, sizeof k->def);
        return 1;
    }
    for (int own = 0; own < ROPE_ARGS && kind->args[own].name; own++)
        if (i-- == 0) {
            *k = kind->args[own];
            return 1;
        }
    *k = (RopeArg){"file", none, none, none, "a GGUF file with the weights of this encoding", NULL};
    if (kind->own_file) k->meaning = "a file of its own: see above";
    return kind->load && i == 0;
}

int rope_whole(const RopeKind *kind, const char *key)
{
    for (int i = 0; i < N_COMMON; i++)
        if (has_common(kind, &common_keys[i]) && strcmp(common_keys[i].name, key) == 0)
            return common_keys[i].whole;
    for (int i = 0; i < ROPE_ARGS && kind->args[i].name; i++)
        if (strcmp(kind->args[i].name, key) == 0) return kind->whole >> i & 1;
    return 0;
}

/* Names of all keys of a kind, for messages. */
static void key_names(const RopeKind *kind, char *buf, size_t size)
{
    size_t n = 0;
    for (int i = 0; i < N_COMMON && n < size; i++)
        if (has_common(kind, &common_keys[i]))
            n += (size_t)snprintf(buf + n, size - n, " %s", common_keys[i].name);
    for (int i = 0; i < ROPE_ARGS && kind->args[i].name && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, " %s", kind->args[i].name);
    if (kind->load && n < size) snprintf(buf + n, size - n, " file");
}

static int number(const char *kind, Str key, Str value, double lo, double hi, double *out, Err *e)
{
    char text[64], *end = NULL;
    size_t n = value.n < sizeof text ? value.n : 0;
    memcpy(text, value.s, n);
    text[n] = 0;
    *out = strtod(text, &end);
    if (n && !*end && *out >= lo && *out <= hi) return 0;
    return err_usage(e, "--rope %s: %.*s: expected a number from %g to %g, found '%.*s'", kind,
                     (int)key.n, key.s, lo, hi, (int)value.n, value.s);
}

static int refuse_part(const char *kind, const char *key, Str value, Err *e)
{
    return err_usage(e, "--rope %s: %s: expected a whole number, found '%.*s'", kind, key,
                     (int)value.n, value.s);
}

static int set_common(const RopeKind *kind, const CommonKey *c, Str value, RopeParams *p, Err *e)
{
    Str key = {c->name, strlen(c->name)};
    double v = 0;
    char *field = (char *)p + c->field;
    if (number(kind->name, key, value, c->lo, c->hi, &v, e)) return -1;
    int whole = c->whole ? (int)v : 0; /* other numbers may be too large for an int */
    if (c->whole && (double)whole < v) return refuse_part(kind->name, c->name, value, e);
    if (c->whole)
        memcpy(field, &whole, sizeof whole);
    else
        memcpy(field, &v, sizeof v);
    return 0;
}

/* The place of a word in "a b c"; -1 if it is none of them. */
static int word_place(const char *words, Str w)
{
    for (int i = 0; *words; i++) {
        size_t n = strcspn(words, " ");
        if (n == w.n && memcmp(words, w.s, n) == 0) return i;
        words += n + (words[n] != 0);
    }
    return -1;
}

static int set_own(const RopeKind *kind, int i, Str value, RopeParams *p, Err *e)
{
    const RopeArg *a = &kind->args[i];
    Str key = {a->name, strlen(a->name)};
    if (!a->words) {
        if (number(kind->name, key, value, a->lo, a->hi, &p->arg[i], e)) return -1;
        int part = kind->whole >> i & 1 && floor(p->arg[i]) < p->arg[i];
        return part ? refuse_part(kind->name, a->name, value, e) : 0;
    }
    int place = word_place(a->words, value);
    p->arg[i] = place;
    return place >= 0 ? 0
                      : err_usage(e, "--rope %s: %s: expected one of: %s; found '%.*s'", kind->name,
                                  a->name, a->words, (int)value.n, value.s);
}

/* The name of the file is kept in the text itself until rope_new copies it. */
static int set_file(const RopeKind *kind, Str value, RopeParams *p, Err *e)
{
    if (!kind->load)
        return err_usage(e, "--rope %s: file: this kind has no weights to read", kind->name);
    p->file = value.n ? value.s : NULL;
    return 0;
}

static int set_key(const RopeKind *kind, Str key, Str value, RopeParams *p, Err *e)
{
    char names[512] = "";
    for (int i = 0; i < N_COMMON; i++)
        if (has_common(kind, &common_keys[i]) && str_is(key, common_keys[i].name))
            return set_common(kind, &common_keys[i], value, p, e);
    for (int i = 0; i < ROPE_ARGS && kind->args[i].name; i++)
        if (str_is(key, kind->args[i].name)) return set_own(kind, i, value, p, e);
    if (str_is(key, "file")) return set_file(kind, value, p, e);
    key_names(kind, names, sizeof names);
    return err_usage(e, "--rope %s: there is no key '%.*s'; expected one of%s", kind->name,
                     (int)key.n, key.s, names);
}

static const RopeKind *kind_named(Str name, Err *e)
{
    char list[1024] = "";
    size_t n = 0;
    for (int i = 0; rope_at(i); i++) {
        if (str_is(name, rope_at(i)->name)) return rope_at(i);
        if (n < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, " %s", rope_at(i)->name);
    }
    err_usage(e, "--rope %.*s: expected one of%s", (int)name.n, name.s, list);
    return NULL;
}

int rope_parse(const char *spec, RopeParams *p, const RopeKind **kind, Err *e)
{
    size_t n = strcspn(spec, ":");
    int factor = 0; /* is it given? */
    *kind = kind_named((Str){spec, n}, e);
    if (!*kind) return -1;
    for (int i = 0; i < ROPE_ARGS; i++) p->arg[i] = (*kind)->args[i].def;
    for (const char *at = spec + n; *at;) {
        at++; /* the colon, or a comma */
        size_t key = strcspn(at, "=,"), end = strcspn(at, ",");
        if (key == end)
            return err_usage(e, "--rope %s: expected key=value, found '%.*s'", spec, (int)end, at);
        if (set_key(*kind, (Str){at, key}, (Str){at + key + 1, end - key - 1}, p, e)) return -1;
        at += end;
        factor |= str_is((Str){at - end, key}, "factor");
    }
    int needed = ((*kind)->common & ROPE_NEEDS_FACTOR) == ROPE_NEEDS_FACTOR;
    if (needed && !factor && p->factor >= 1 && p->factor <= 1)
        return err_usage(e, "--rope %s: give its factor, as %s:factor=4", spec, (*kind)->name);
    return 0;
}

/* Appends ",name=value"; the first one ":name=value". */
static void add_number(char *buf, size_t size, const char *name, double v)
{
    size_t n = strlen(buf);
    char text[32];
    for (int digits = 6; digits < 18; digits++) { /* the shortest that reads back the same */
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (!(strtod(text, NULL) < v || strtod(text, NULL) > v)) break;
    }
    snprintf(buf + n, size - n, "%c%s=%s", strchr(buf, ':') ? ',' : ':', name, text);
}

static void add_word(char *buf, size_t size, const RopeArg *a, int place)
{
    const char *w = a->words;
    for (; place > 0; place--) w += strcspn(w, " ") + 1;
    size_t n = strlen(buf);
    snprintf(buf + n, size - n, "%c%s=%.*s", strchr(buf, ':') ? ',' : ':', a->name,
             (int)strcspn(w, " "), w);
}

void rope_text(const Rope *r, char *buf, size_t size)
{
    const RopeParams *p = &r->p, was = rope_params(p->head_dim, 0);
    snprintf(buf, size, "%s", r->kind->name);
    for (int i = 0; i < N_COMMON; i++) {
        const CommonKey *c = &common_keys[i];
        const char *now = (const char *)p + c->field, *def = (const char *)&was + c->field;
        int whole = 0;
        double v = 0;
        if (!has_common(r->kind, c)) continue;
        if (memcmp(now, def, c->whole ? sizeof whole : sizeof v) == 0) continue;
        memcpy(c->whole ? (void *)&whole : (void *)&v, now, c->whole ? sizeof whole : sizeof v);
        add_number(buf, size, c->name, c->whole ? whole : v);
    }
    for (int i = 0; i < ROPE_ARGS && r->kind->args[i].name; i++) {
        const RopeArg *a = &r->kind->args[i];
        int differs = p->arg[i] < a->def || p->arg[i] > a->def || isnan(a->def);
        if (!differs || isnan(p->arg[i])) continue;
        if (a->words)
            add_word(buf, size, a, (int)p->arg[i]);
        else
            add_number(buf, size, a->name, p->arg[i]);
    }
    if (p->file) {
        size_t n = strlen(buf);
        snprintf(buf + n, size - n, "%cfile=%s", strchr(buf, ':') ? ',' : ':', p->file);
    }
}
