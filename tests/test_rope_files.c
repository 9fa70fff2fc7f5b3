/* The encoding that a file asks for: every key of GGUF and of config.json is obeyed, or refused
 * with a sentence that names it. */
#include "../model.h"

#include "check.h"
#include "gguf_builder.h"

#include <string.h>
#include <unistd.h>

#define PATH "some/model.gguf"

enum { L = 4, E = 8, H = 2, D = 8, P = D / 2, F = 12, V = 20 };

static Err err;

/* ---------------------------------------------------------------- model files */

static void matrix(GgufBuilder *b, const char *name, int cols, int rows)
{
    gb_tensor(b, name, T_F32, rows > 1 ? 2 : 1, (int64_t[]){cols, rows}, NULL,
              sizeof(float) * (size_t)cols * (size_t)rows);
}

/* A model of zeros: four layers, heads of four pairs. */
static GgufBuilder start(void)
{
    GgufBuilder b = {0};
    static const struct {
        const char *name;
        int cols, rows;
    } layer[] = {{"attn_norm", E, 1},  {"attn_q", E, H * D},      {"attn_k", E, H * D},
                 {"attn_v", E, H * D}, {"attn_output", H * D, E}, {"ffn_norm", E, 1},
                 {"ffn_gate", E, F},   {"ffn_up", E, F},          {"ffn_down", F, E}};
    gb_key_str(&b, "general.architecture", "llama");
    gb_key_u32(&b, "llama.context_length", 4096);
    gb_key_u32(&b, "llama.embedding_length", E);
    gb_key_u32(&b, "llama.block_count", L);
    gb_key_u32(&b, "llama.feed_forward_length", F);
    gb_key_u32(&b, "llama.attention.head_count", H);
    gb_key_u32(&b, "llama.attention.key_length", D);
    gb_key_u32(&b, "llama.attention.value_length", D);
    gb_key_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    matrix(&b, "token_embd.weight", E, V);
    matrix(&b, "output_norm.weight", E, 1);
    for (int l = 0; l < L; l++)
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, layer[i].name);
            matrix(&b, name, layer[i].cols, layer[i].rows);
        }
    return b;
}

/* Adds "rope.x=f:4", "rope.y=s:yarn" ...: f32, u32, bool, texts, lists of f32 and i32 (F, I),
 * tensors of float32 (v). "llama." is put before keys that have no architecture. */
static void add_word(GgufBuilder *b, char *word)
{
    char *eq = strchr(word, '='), type = eq[1], *v = eq + 3, key[128];
    float f[16] = {0};
    int i[16] = {0};
    size_t n = 0;
    *eq = 0;
    snprintf(key, sizeof key, "%s%s", strncmp(word, "ropescope", 9) ? "llama." : "", word);
    for (char *at = v; strchr("FIv", type) && *at && n < 16; n++) {
        f[n] = strtof(at, &at);
        i[n] = (int)f[n];
        at += *at == ',';
    }
    if (type == 'f') gb_key_f32(b, key, strtof(v, NULL));
    if (type == 'u') gb_key_u32(b, key, (uint32_t)strtoul(v, NULL, 10));
    if (type == 'b') gb_key_bool(b, key, *v == '1');
    if (type == 's') gb_key_str(b, key, v);
    if (type == 'F') gb_key_f32s(b, key, f, n);
    if (type == 'I') gb_key_i32s(b, key, i, n);
    if (type == 'v') gb_tensor(b, word, T_F32, 1, (int64_t[]){(int64_t)n}, f, n * sizeof *f);
}

static int load(Model *m, const char *words, const ModelOptions *o)
{
    GgufBuilder b = start();
    char text[1024], *save = NULL;
    size_t size;
    Gguf g;
    snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) add_word(&b, w);
    uint8_t *file = gb_finish(&b, &size);
    err = (Err){.usage = 0};
    int rc = gguf_parse(&g, PATH, file, size, &err);
    if (rc == 0) rc = model_bind(m, &g, o, &err);
    if (rc) {
        free(file);
        *m = (Model){0};
    } else {
        m->owned = xrealloc(m->owned, (size_t)m->n_owned + 1, sizeof *m->owned);
        m->owned[m->n_owned++] = (float *)(void *)file; /* goes with the model */
    }
    return rc;
}

static const char *text_of(const Model *m, int l)
{
    static char text[1024];
    rope_text(&m->rope[m->layer[l].rope], text, sizeof text);
    return text;
}

/* want: the text of all layers, or "0: text" of that one; "!words" in a refusal. */
static void check_file(int line, const char *words, const char *want, const ModelOptions *o)
{
    Model m;
    int rc = load(&m, words, o), one = want[0] >= '0' && want[0] <= '9' && want[1] == ':';
    if (*want == '!') {
        CHECK_MSG(rc == -1 && strstr(err.msg, want + 1) && (o || strstr(err.msg, PATH)),
                  "line %d: %s: %s", line, words, rc ? err.msg : text_of(&m, 0));
    } else if (CHECK_MSG(rc == 0, "line %d: %s: %s", line, words, err.msg)) {
        for (int l = one ? *want - '0' : 0; l <= (one ? *want - '0' : L - 1); l++)
            CHECK_MSG(strcmp(text_of(&m, l), want + (one ? 3 : 0)) == 0,
                      "line %d: %s: layer %d: %s", line, words, l, text_of(&m, l));
    }
    if (rc == 0) model_close(&m);
}
#define FILE_SAYS(words, want) check_file(__LINE__, words, want, NULL)

#define YARN "rope.scaling.type=s:yarn rope.scaling.factor=f:4 "
#define LIST "rope_factors_short.weight=v:1,1,1,2 rope_factors_long.weight=v:1,2,3,4 "

static void test_keys(void)
{
    FILE_SAYS("", "plain:base=10000");
    FILE_SAYS("rope.freq_base=f:500000 rope.dimension_count=u:4", "plain:base=500000,n_rot=4");
    FILE_SAYS("rope.scaling.type=s:none rope.scaling.factor=f:8", "plain:base=10000");
    FILE_SAYS("rope.scaling.type=s:linear rope.scaling.factor=f:8", "linear:base=10000,factor=8");
    FILE_SAYS("rope.scaling.finetuned=b:1 rope.dimension_sections=I:4,0,0,0", "plain:base=10000");
    FILE_SAYS("rope.scaling.yarn_beta_fast=f:16 rope.scaling.yarn_ext_factor=f:-1",
              "plain:base=10000");
    FILE_SAYS("rope.scaling.alpha=f:2", "ntk:base=10000,alpha=2");
    FILE_SAYS("attention.max_alibi_bias=f:8", "alibi:base=10000,under=plain");
    FILE_SAYS("attention.max_alibi_bias=f:0", "plain:base=10000");
    FILE_SAYS("attention.rope_pattern=I:1,0,1,1", "1: none:base=10000");
    FILE_SAYS("attention.rope_pattern=I:1,0,1,1", "2: plain:base=10000");
    FILE_SAYS("rope.freq_base_per_layer=F:1e4,1e5,1e6,1e4", "2: plain:base=1e+06");
    FILE_SAYS("rope.dimension_count_per_layer=I:8,8,4,2", "3: plain:base=10000,n_rot=2");
    FILE_SAYS("attention.sliding_window=u:16 rope.freq_base=f:1e6 rope.freq_base_swa=f:1e4 "
              "rope.dimension_count_swa=u:4 rope.scaling.factor=f:8",
              "plain:base=10000,n_rot=4");
}

static void test_refused_keys(void)
{
    FILE_SAYS("rope.scaling.type=s:spiral", "!llama.rope.scaling.type");
    FILE_SAYS("rope.scaling.type=u:1", "!llama.rope.scaling.type");
    FILE_SAYS("rope.scaling.factor=f:nan", "!llama.rope.scaling.factor");
    FILE_SAYS("rope.scaling.factor=f:-1", "!llama.rope.scaling.factor");
    FILE_SAYS("rope.scaling.attn_factor=f:0", "!llama.rope.scaling.attn_factor");
    FILE_SAYS("rope.scaling.attn_factor=f:nan", "!llama.rope.scaling.attn_factor");
    FILE_SAYS("rope.scaling.original_context_length=u:0", "!original_context_length");
    FILE_SAYS("rope.scaling.spiral=f:1", "!llama.rope.scaling.spiral");
    FILE_SAYS("rope.scaling.alpha=f:2 rope.scaling.factor=f:2", "!llama.rope.scaling.alpha");
    FILE_SAYS("attention.max_alibi_bias=f:8 rope.scaling.factor=f:2", "!max_alibi_bias");
    FILE_SAYS("attention.max_alibi_bias=f:inf", "!max_alibi_bias");
    FILE_SAYS("attention.temperature_scale=f:0.1", "!llama.attention.temperature_scale");
    FILE_SAYS("attention.temperature_length=u:1024", "!llama.attention.temperature_length");
    FILE_SAYS("rope.dimension_sections=I:2,1,1,0", "!llama.rope.dimension_sections");
    FILE_SAYS("rope.dimension_sections=s:no", "!llama.rope.dimension_sections");
    FILE_SAYS("attention.rope_pattern=I:1,0", "!llama.attention.rope_pattern");
    FILE_SAYS("attention.rope_pattern=I:1,0,2,1", "!llama.attention.rope_pattern");
    FILE_SAYS("rope.freq_base_per_layer=F:1e4,1e4", "!llama.rope.freq_base_per_layer");
    FILE_SAYS("rope.freq_base_per_layer=F:1e4,nan,1e4,1e4", "!llama.rope.freq_base_per_layer");
    FILE_SAYS("rope.dimension_count_per_layer=I:8,8,3,8", "!expected an even number, found 3");
    FILE_SAYS("rope.freq_base_swa=f:1e4", "!expected layers that see a window only");
    FILE_SAYS("rope.freq_base_swa=f:nan attention.sliding_window=u:4", "!llama.rope.freq_base_swa");
    FILE_SAYS("rope_freqs.weight=v:1,1,0,1", "!divisor 2 is 0");
    FILE_SAYS("rope_freqs.weight=v:1,1,1", "!rope_freqs.weight");
}

/* The amplitude is what llama.cpp computes: (0.1 ln s + 1), / (0.1 log_multiplier ln s + 1), times
 * attn_factor; without a ramp (ext_factor 0) attn_factor alone. */
static void test_yarn(void)
{
    const double f4 = 0.1 * log(4) + 1;
    const struct {
        const char *words, *text;
        double amplitude;
    } rows[] = {
        {"", "", f4},
        {"rope.scaling.attn_factor=f:0.5 ", ",attn_factor=0.5", 0.5 * f4},
        {"rope.scaling.yarn_log_multiplier=f:0.5 ", ",mscale=1,mscale_all_dim=0.5",
         f4 / (0.05 * log(4) + 1)},
        {"rope.scaling.yarn_ext_factor=f:0.5 ", ",ext_factor=0.5", f4},
        {"rope.scaling.yarn_ext_factor=f:0 ", ",ext_factor=0", 1},
        {"rope.scaling.yarn_beta_fast=f:16 rope.scaling.yarn_beta_slow=f:2 ",
         ",beta_fast=16,beta_slow=2", f4},
        {"rope.scaling.yarn_attn_factor=f:1 ", "", f4},
        {"rope.scaling.yarn_attn_factor=f:1.1386294 ", "", f4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char words[512], want[256];
        Model m;
        snprintf(words, sizeof words, YARN "rope.scaling.original_context_length=u:128 %s",
                 rows[i].words);
        snprintf(want, sizeof want, "yarn:base=10000,original=128,factor=4%s", rows[i].text);
        FILE_SAYS(words, want);
        if (load(&m, words, NULL)) continue;
        CHECK_MSG(fabs(m.rope->amplitude / rows[i].amplitude - 1) < 1e-12, "%s: %.17g", words,
                  m.rope->amplitude); /* the same formula in double */
        model_close(&m);
    }
    FILE_SAYS("rope.scaling.factor=f:2 rope.scaling.attn_factor=f:1.5",
              "yarn:base=10000,original=4096,factor=2,attn_factor=1.5,ext_factor=0");
    FILE_SAYS(YARN "rope.scaling.yarn_attn_factor=f:1.5", "!yarn_attn_factor");
    FILE_SAYS(YARN "rope.scaling.yarn_ext_factor=f:2", "!yarn_ext_factor");
    FILE_SAYS(YARN "rope.scaling.yarn_beta_fast=f:nan", "!yarn_beta_fast");
    FILE_SAYS(YARN "rope.scaling.yarn_beta_fast=f:0.5", "!beta_fast");
    FILE_SAYS(YARN "rope.scaling.alpha=f:2", "!llama.rope.scaling.alpha");
    FILE_SAYS("rope.scaling.yarn_ext_factor=f:1", "!yarn_ext_factor");
}

static void test_longrope(void)
{
    const char *want = "longrope:base=10000,original=64,factor=1,attention_factor=1.25";
    Model m;
#define LONG LIST "rope.scaling.original_context_length=u:64 rope.scaling.attn_factor=f:1.25 "
    FILE_SAYS(LONG, want); /* older files do not name the type */
    FILE_SAYS(LONG "rope.scaling.type=s:longrope", want);
    FILE_SAYS(LONG "rope.scaling.type=s:linear", "!rope.scaling.type");
    FILE_SAYS("rope.scaling.type=s:longrope", "!rope.scaling.type");
    /* A trained length of 1 has no logarithm to divide by: then the amplitude must be said. */
#define ONE LIST "ropescope.rope=s:longrope:original=1,factor=4"
    FILE_SAYS(LIST "rope.scaling.original_context_length=u:1 rope.scaling.attn_factor=f:1.25",
              "longrope:base=10000,original=1,factor=1,attention_factor=1.25");
    FILE_SAYS(ONE ",attention_factor=1.25",
              "longrope:base=10000,original=1,factor=4,attention_factor=1.25");
    FILE_SAYS(ONE ",short_mscale=1,long_mscale=2",
              "longrope:base=10000,original=1,factor=4,short_mscale=1,long_mscale=2");
    FILE_SAYS(ONE ",short_mscale=1", "!original: expected at least 2 tokens");
    FILE_SAYS(ONE, "!original: expected at least 2 tokens");
#undef ONE
    FILE_SAYS(LONG "rope.scaling.factor=f:2", "!rope.scaling.factor");
    FILE_SAYS(LONG "rope_freqs.weight=v:1,1,1,1", "!rope_freqs.weight");
    FILE_SAYS("rope_factors_short.weight=v:1,1,1,2", "!rope_factors_long.weight");
    FILE_SAYS("rope_factors_short.weight=v:1,1 rope_factors_long.weight=v:1,2", "!expected shape");
    FILE_SAYS("rope_factors_short.weight=v:1,1,0,1 rope_factors_long.weight=v:1,2,3,4",
              "!divisor 2 is 0");
    if (!CHECK(load(&m, LONG, NULL) == 0)) return;
    CHECK(fabs(m.rope->amplitude - 1.25) < 1e-15);
    for (int j = 0; j < P; j++) { /* the short list; powers of two */
        double w = pow(10000, -2.0 * j / D) / (j == 3 ? 2 : 1);
        CHECK_MSG(fabs(m.rope->inv_freq[j] / w - 1) < 1e-14, "pair %d: %g", j, m.rope->inv_freq[j]);
    }
    model_close(&m);
}

/* A text of our own goes before the standard keys, those that nobody knows, too. */
static void test_own_key(void)
{
    FILE_SAYS("ropescope.rope=s:none", "none:base=10000");
    FILE_SAYS(YARN "rope.freq_base=f:500 rope.spiral=f:1 rope_freqs.weight=v:1,1,1,2 "
                   "ropescope.rope=s:dynamic:factor=2,original=64",
              "dynamic:base=500,factor=2,original=64,step=2");
    FILE_SAYS("ropescope.rope=s:yarn:factor=4,truncate=no", "0: yarn:base=10000,original=4096,"
                                                            "factor=4,truncate=no");
    FILE_SAYS("ropescope.rope=s:spiral", "!key 'ropescope.rope': rope spiral: expected one of");
    FILE_SAYS("ropescope.rope=s:yarn:factor=nan", "!key 'ropescope.rope': rope yarn: factor");
    FILE_SAYS("ropescope.rope=s:longrope:file=other.gguf", "!may not name another");
    FILE_SAYS("ropescope.rope=u:1", "!ropescope.rope");
    FILE_SAYS("ropescope.rope=s:", "!ropescope.rope");
    FILE_SAYS("ropescope.rope=I:1,2,3,4", "!ropescope.rope");
}

static void test_own_list(void)
{
    for (size_t n = 3; n <= 4; n++) {
        GgufBuilder b = start();
        Str text[4] = {{"plain", 5}, {"none", 4}, {"plain:base=7", 12}, {"linear:factor=2", 15}};
        Model m;
        Gguf g;
        size_t size;
        gb_key_strs(&b, "ropescope.rope", text, n);
        uint8_t *file = gb_finish(&b, &size);
        if (!CHECK(gguf_parse(&g, PATH, file, size, &err) == 0)) return;
        int rc = model_bind(&m, &g, NULL, &err);
        if (n == 3) {
            CHECK_MSG(rc == -1 && strstr(err.msg, "expected one text, or 4"), "%s", err.msg);
        } else if (CHECK_MSG(rc == 0, "%s", err.msg)) {
            CHECK(!strcmp(text_of(&m, 1), "none:base=10000"));
            CHECK(!strcmp(text_of(&m, 2), "plain:base=7"));
            CHECK(strstr(text_of(&m, 3), "linear") && strstr(text_of(&m, 3), "factor=2"));
            model_close(&m);
        }
        free(file);
    }
}

/* What the command line says for all layers makes good for what a file asks in vain. */
static void test_override(void)
{
    ModelOptions all = {.rope = "plain"}, some = {.rope = "plain", .rope_layers = "1-2"};
    check_file(__LINE__, "rope.scaling.type=s:spiral", "plain:base=10000", &all);
    check_file(__LINE__, "rope.scaling.type=s:spiral", "!rope.scaling.type", &some);
    check_file(__LINE__, LIST, "plain:base=10000", &all);
    check_file(__LINE__, YARN, "1: plain:base=10000", &some);
    check_file(__LINE__, YARN, "3: yarn:base=10000,original=4096,factor=4", &some);
    check_file(__LINE__, "rope.freq_base=f:nan", "!rope.freq_base", &all);
}

/* ---------------------------------------------------------------- config.json */

/* want: the texts for --rope of the four layers, with / between them, or one for all; "!words" in a
 * refusal. Single quotes stand for double ones. */
static void check_config(int line, const char *json, const char *want)
{
    char text[4096], got[4096] = "";
    RopeConfig c;
    snprintf(text, sizeof text, "%s", json);
    for (char *p = text; *p; p++)
        if (*p == '\'') *p = '"';
    err = (Err){.usage = 0};
    int rc = rope_config_parse(&c, "config.json", (Str){text, strlen(text)}, L, D, &err);
    for (int l = 0; rc == 0 && l < L; l++) {
        const ConfigRope *r = &c.rope[c.of_layer[l]];
        RopeSpec s = {NULL, rope_params(D, 10000)};
        size_t n = strlen(got);
        if (l == 0 || strchr(want, '/'))
            snprintf(got + n, sizeof got - n, "%s%s", l ? "/" : "", r->spec);
        CHECK_MSG(rope_read("config.json", r->spec, &s, &err) == 0, "line %d: %s", line, err.msg);
    }
    if (*want == '!')
        CHECK_MSG(rc == -1 && strstr(err.msg, want + 1) && strstr(err.msg, "config.json"),
                  "line %d: %s %s", line, got, err.msg);
    else
        CHECK_MSG(rc == 0 && strcmp(got, want) == 0, "line %d: %s%s", line, got, rc ? err.msg : "");
    if (rc == 0) rope_config_free(&c);
}
#define CONFIG_SAYS(json, want) check_config(__LINE__, json, want)
/* An object of scaling, of either generation; base 10. */
#define OLD(rest) "{'rope_theta':10,'max_position_embeddings':256,'rope_scaling':{" rest "}}"
#define NEW(rest) "{'max_position_embeddings':256,'rope_parameters':{'rope_theta':10," rest "}}"

static void test_shapes(void)
{
    CONFIG_SAYS("{'rope_theta':5e5}", "plain:base=500000");
    CONFIG_SAYS("{'rope_theta':10000,'rope_scaling':null}", "plain:base=10000");
    CONFIG_SAYS("{'rotary_emb_base':100,'rotary_pct':0.25}", "plain:base=100,n_rot=2");
    CONFIG_SAYS("{'rope_ratio':5}", "plain:base=50000");
    CONFIG_SAYS("{'rope_theta':9,'rope_pct':0.5}", "plain:base=9,n_rot=4");
    CONFIG_SAYS("{'model_type':'gptj','rotary_dim':6}", "plain:base=10000,n_rot=6");
    CONFIG_SAYS("{'model_type':'gpt_neox'}", "plain:base=10000,n_rot=2");
    CONFIG_SAYS("{'model_type':'llama'}", "plain:base=10000");
    CONFIG_SAYS("{'model_type':'spiral'}", "!rope_theta");
    CONFIG_SAYS("{}", "!rope_theta");
    CONFIG_SAYS("{'model_type':'x','text_config':{'rope_theta':7}}", "plain:base=7");
    CONFIG_SAYS("{'rope_theta':5,'rope_parameters':{'rope_theta':6,'rope_type':'default'}}",
                "plain:base=6");
    CONFIG_SAYS(NEW("'partial_rotary_factor':0.5"), "plain:base=10,n_rot=4");
    CONFIG_SAYS(NEW("'partial_rotary_factor':0.4"), "!even number");
    CONFIG_SAYS("{'rope_theta':10,'rope_interleave':true}", "!rope_interleave");
    CONFIG_SAYS("{'rope_theta':10,'position_embedding_type':'alibi'}", "!position_embedding_type");
    CONFIG_SAYS("{'rope_theta':'10'}", "!rope_theta: expected a number");
    CONFIG_SAYS("{'rope_theta':-1}", "!rope_theta: expected a number");
    CONFIG_SAYS("{'rope_theta':1e999}", "!rope_theta: expected a number");
    CONFIG_SAYS("{'rope_theta':NaN}", "!expected a value");
    CONFIG_SAYS("{'rope_theta':10,'rope_theta':20}", "!expected once");
    CONFIG_SAYS("{'rope_theta':10,'rope_scaling':[1]}", "!rope_scaling");
    CONFIG_SAYS("{'rope_theta':10,'rope_scaling':{},'rope_parameters':{}}", "!rope_scaling");
    CONFIG_SAYS("", "!expected a JSON object");
}

static void test_scalings(void)
{
    CONFIG_SAYS(OLD("'type':'linear','factor':4"), "linear:factor=4,base=10");
    CONFIG_SAYS(NEW("'rope_type':'linear','factor':4.0"), "linear:factor=4,base=10");
    CONFIG_SAYS(OLD("'type':'linear'"), "!rope_scaling.factor: expected a number, found nothing");
    CONFIG_SAYS(OLD("'type':'linear','factor':0"), "!rope_scaling.factor");
    CONFIG_SAYS(OLD("'type':'linear','factor':2,'beta_fast':1"), "!beta_fast");
    CONFIG_SAYS(OLD("'type':'spiral'"), "!rope_scaling.type: expected default, linear");
    CONFIG_SAYS(OLD("'type':7"), "!rope_scaling.type");
    CONFIG_SAYS(OLD("'type':'mrope','mrope_section':[1,1,2]"), "!rope_scaling.type");
    CONFIG_SAYS(OLD("'type':'linear','factor':2,'factor':3"), "!expected once");
    CONFIG_SAYS(OLD("'type':'linear','factor':{}"), "!rope_scaling.factor");
    CONFIG_SAYS(OLD("'type':'dynamic','factor':2"), "dynamic:original=256,factor=2,base=10");
    CONFIG_SAYS(OLD("'type':'dynamic','factor':2,'original_max_position_embeddings':64"),
                "!original_max_position_embeddings");
    CONFIG_SAYS("{'rope_theta':10,'rope_scaling':{'type':'dynamic','factor':2}}",
                "!max_position_embeddings");
    CONFIG_SAYS(OLD("'type':'dynamic','alpha':1000,'factor':1,'mscale':1"),
                "ntk:alpha=1000,base=10");
    CONFIG_SAYS(NEW("'rope_type':'llama3','factor':8,'low_freq_factor':1,'high_freq_factor':4,"
                    "'original_max_position_embeddings':64"),
                "llama3:original=64,factor=8,low=1,high=4,base=10");
    CONFIG_SAYS(NEW("'rope_type':'llama3','factor':8"), "!rope_parameters.low_freq_factor");
    CONFIG_SAYS(NEW("'rope_type':'proportional','partial_rotary_factor':0.25"),
                "proportional:base=10,fraction=0.25");
}

static void test_yarn_config(void)
{
#define YARN4 "'rope_type':'yarn','factor':4,'original_max_position_embeddings':64"
    CONFIG_SAYS(NEW(YARN4), "yarn:original=64,factor=4,base=10");
    CONFIG_SAYS(NEW("'rope_type':'yarn','factor':null,'original_max_position_embeddings':32"),
                "yarn:original=32,factor=8,base=10");
    CONFIG_SAYS(NEW("'rope_type':'yarn','factor':2"), "yarn:original=256,factor=2,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'attention_factor':null,'beta_fast':0,'beta_slow':2"),
                "yarn:original=64,factor=4,beta_slow=2,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'attention_factor':0.5,'mscale':1,'mscale_all_dim':1"),
                "yarn:original=64,factor=4,attention_factor=0.5,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'mscale':0.5,'mscale_all_dim':0.25,'truncate':false"),
                "yarn:original=64,factor=4,mscale=0.5,mscale_all_dim=0.25,truncate=no,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'mscale':0.5,'mscale_all_dim':0"), "yarn:original=64,factor=4,base=10");
    CONFIG_SAYS(NEW("'rope_type':'telechat3-yarn','factor':1,'original_max_position_embeddings':8"),
                "yarn:original=8,factor=1,attention_factor=1,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'truncate':1"), "!rope_parameters.truncate");
    CONFIG_SAYS(NEW(YARN4 ",'truncate':null"), "yarn:original=64,factor=4,truncate=no,base=10");
    CONFIG_SAYS(NEW(YARN4 ",'spiral':1"), "!rope_parameters.\"spiral\"");
    CONFIG_SAYS("{'rope_theta':10,'rope_scaling':{'type':'yarn'}}", "!original");
    RopeConfig c; /* 0.07 ln 4 + 1 */
    const char *tele =
        "{\"rope_theta\":10,\"rope_scaling\":{\"type\":\"telechat3-yarn\",\"factor\":"
        "4,\"original_max_position_embeddings\":8}}";
    if (!CHECK(!rope_config_parse(&c, "c.json", (Str){tele, strlen(tele)}, L, D, &err))) return;
    double A = strtod(strstr(c.rope[0].spec, "attention_factor=") + 17, NULL);
    CHECK_MSG(fabs(A - 1.0970406053) < 1e-9, "%s", c.rope[0].spec);
    rope_config_free(&c);
}

static void test_longrope_config(void)
{
#define LISTS "'short_factor':[1,1,1,2],'long_factor':[1,2,3,4.5]"
    CONFIG_SAYS(OLD("'type':'su'," LISTS ",'original_max_position_embeddings':64"),
                "longrope:original=64,factor=4,base=10");
    CONFIG_SAYS("{'rope_theta':10,'max_position_embeddings':256,'original_max_position_embeddings':"
                "32,'rope_scaling':{'type':'longrope'," LISTS
                ",'original_max_position_embeddings':64}}",
                "longrope:original=32,factor=8,base=10");
    CONFIG_SAYS(OLD("'type':'yarn'," LISTS), "longrope:original=256,factor=1,base=10");
    CONFIG_SAYS(OLD("'type':'longrope','factor':2,'attention_factor':1.5," LISTS),
                "longrope:original=256,factor=2,attention_factor=1.5,base=10");
    CONFIG_SAYS(OLD("'type':'longrope'"), "!rope_scaling.short_factor: expected a list");
    CONFIG_SAYS(OLD("'type':'longrope','short_factor':[1],'long_factor':[]"), "!long_factor");
    CONFIG_SAYS(OLD("'type':'longrope','short_factor':[1,0],'long_factor':[1]"), "!short_factor");
    CONFIG_SAYS(OLD("'type':'longrope','short_factor':[1,[2]],'long_factor':[1]"), "!short_factor");
}

/* rope_parameters by type of layer, a second base, layers that do not turn, ALiBi. */
static void test_layers(void)
{
#define TYPES "'layer_types':['sliding_attention','full_attention','full_attention','x'],"
#define TWO                                                                                        \
    "'layer_types':['sliding_attention','full_attention','full_attention','full_attention'],"
    CONFIG_SAYS("{" TWO "'rope_parameters':{'full_attention':{'rope_type':'linear','factor':8,"
                "'rope_theta':1e6},'sliding_attention':{'rope_type':'default','rope_theta':1e4}}}",
                "plain:base=10000/linear:factor=8,base=1000000/linear:factor=8,base=1000000/"
                "linear:factor=8,base=1000000");
    CONFIG_SAYS("{" TWO "'rope_parameters':{'full_attention':null,'sliding_attention':{'rope_theta'"
                ":5}}}",
                "plain:base=5/none/none/none");
    CONFIG_SAYS("{" TYPES "'rope_parameters':{'full_attention':{'rope_theta':6},"
                "'sliding_attention':{'rope_theta':5}}}",
                "!expected an object");
    CONFIG_SAYS("{'rope_parameters':{'full_attention':{'rope_theta':6}}}", "!layer_types");
    CONFIG_SAYS("{'layer_types':['full_attention'],'rope_theta':1}", "!layer_types");
    CONFIG_SAYS("{'layer_types':[1,2,3,4],'rope_theta':1}", "!layer_types");
    CONFIG_SAYS("{'model_type':'gemma3_text','sliding_window_pattern':2,'rope_scaling':"
                "{'factor':8,'rope_type':'linear'}}",
                "plain:base=10000/linear:factor=8,base=1000000/plain:base=10000/"
                "linear:factor=8,base=1000000");
    CONFIG_SAYS("{'rope_theta':6,'rope_local_base_freq':5,'sliding_window_pattern':3}",
                "plain:base=5/plain:base=5/plain:base=6/plain:base=5");
    CONFIG_SAYS("{'rope_theta':6,'rope_local_base_freq':5}", "!rope_local_base_freq");
    CONFIG_SAYS("{'model_type':'smollm3','no_rope_layers':[1,0,1,1]}",
                "plain:base=2000000/none/plain:base=2000000/plain:base=2000000");
    CONFIG_SAYS("{'model_type':'smollm3','no_rope_layers':null,'rope_theta':9}",
                "plain:base=9/plain:base=9/plain:base=9/none");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layer_interval':2}",
                "plain:base=9/none/plain:base=9/none");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layers':[1,0,1]}", "!no_rope_layers");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layers':[1,0,2,1]}", "!no_rope_layers");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layer_interval':0}", "!no_rope_layer_interval");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layers':[1,1,1,0],'attn_temperature_tuning':true}",
                "plain:base=9/plain:base=9/plain:base=9/"
                "nope-layers:every=1,attn_scale=0.10000000000000001,floor_scale=8192");
    CONFIG_SAYS("{'model_type':'falcon','alibi':true}", "alibi:max_bias=8");
    CONFIG_SAYS("{'model_type':'falcon','alibi':false}", "plain:base=10000");
    CONFIG_SAYS("{'model_type':'mpt','attn_config':{'alibi':true,'alibi_bias_max':4}}",
                "alibi:max_bias=4");
    CONFIG_SAYS("{'alibi':1}", "!alibi");
}

/* One object of scaling, and layers of more than one type: what the family makes of it. */
static void test_families(void)
{
#define SCALE             "'rope_scaling':{'rope_type':'linear','factor':8}"
#define MODEL(type, rest) "{'model_type':'" type "'," TWO rest "}"
    CONFIG_SAYS(MODEL("spiral", "'rope_theta':9"), "!model_type: expected one of those known");
    CONFIG_SAYS("{" TWO "'rope_theta':9}", "!found nothing");
    CONFIG_SAYS("{'rope_theta':9,'sliding_window_pattern':2}", "!model_type");
    CONFIG_SAYS("{'model_type':'spiral','rope_theta':9}", "plain:base=9");
    CONFIG_SAYS("{'model_type':'spiral','rope_theta':9,'layer_types':['x','x','x','x']}",
                "plain:base=9");
    CONFIG_SAYS("{'model_type':'cohere2_moe','rope_theta':9}", "!found \"cohere2_moe\"");
    CONFIG_SAYS(MODEL("qwen2", "'rope_theta':9"), "plain:base=9/plain:base=9/plain:base=9/"
                                                  "plain:base=9");
    CONFIG_SAYS(MODEL("cohere2", "'rope_theta':9"), "plain:base=9/none/none/none");
    CONFIG_SAYS("{'model_type':'cohere2','position_embedding_type':'rope_gptj'}",
                "plain:base=10000/plain:base=10000/plain:base=10000/none");
    CONFIG_SAYS("{'model_type':'cohere2','sliding_window':null}", "!sliding_window");
    CONFIG_SAYS("{'model_type':'exaone4','sliding_window_pattern':2}",
                "plain:base=10000/none/plain:base=10000/none");
    CONFIG_SAYS("{'model_type':'exaone4','sliding_window':null}", "plain:base=10000");
    CONFIG_SAYS("{'model_type':'olmo3'," SCALE "}",
                "plain:base=500000/plain:base=500000/plain:base=500000/"
                "linear:factor=8,base=500000");
    CONFIG_SAYS("{'model_type':'olmo3','rope_theta':9," SCALE "}", "!rope_theta: expected 500000");
    CONFIG_SAYS("{'model_type':'olmo3','rope_parameters':{'rope_theta':9}}", "!each type of layer");
    CONFIG_SAYS("{'model_type':'gemma3_text','rope_parameters':{'rope_theta':9}}",
                "!each type of layer");
}

/* A config of another model. */
static void test_other_shape(void)
{
    CONFIG_SAYS("{'rope_theta':9,'num_hidden_layers':4,'head_dim':8,'hidden_size':99,"
                "'num_attention_heads':1}",
                "plain:base=9");
    CONFIG_SAYS("{'rope_theta':9,'hidden_size':24,'num_attention_heads':3}", "plain:base=9");
    CONFIG_SAYS("{'rope_theta':9,'num_hidden_layers':5}",
                "!num_hidden_layers: expected 4, as the model has, found 5");
    CONFIG_SAYS("{'model_type':'gptj','n_layer':28}", "!n_layer: expected 4");
    CONFIG_SAYS("{'rope_theta':9,'head_dim':16}", "!head_dim: expected 8, as the model has, found");
    CONFIG_SAYS("{'rope_theta':9,'hidden_size':64,'num_attention_heads':4}",
                "!hidden_size / num_attention_heads: expected 8 values per head, as the model has, "
                "found 16");
    CONFIG_SAYS("{'rope_theta':9,'head_dim':8.5}", "!head_dim: expected a whole number");
    CONFIG_SAYS("{'model_type':'qwen3','hidden_size':64,'num_attention_heads':8}",
                "!head_dim: expected 8, as the model has, found 128");
}

static void test_messages(void)
{
    static char many[40000];
    RopeConfig c;
    CONFIG_SAYS("\xEF\xBB\xBF{'rope_theta':9}", "plain:base=9");
    CONFIG_SAYS("{'rope_theta':10,'rope_scaling':[1]}", "!rope_scaling: expected an object");
    size_t n = (size_t)sprintf(many, "{\"rope_theta\":9,\"rope_scaling\":{\"type\":\"longrope\","
                                     "\"original_max_position_embeddings\":8,\"factor\":2,"
                                     "\"long_factor\":[1],\"short_factor\":[1");
    for (int i = 0; i < MAX_PAIRS; i++) n += (size_t)sprintf(many + n, ",1");
    n += (size_t)sprintf(many + n, "]}}");
    CHECK(rope_config_parse(&c, "c.json", (Str){many, n}, L, D, &err) &&
          strstr(err.msg, "short_factor: expected at most 8192 numbers"));
}

/* Nothing but sentences comes of garbage. */
static void test_hostile(void)
{
    char deep[400] = "{'rope_theta':", many[4096] = "{'rope_theta':9";
    for (int i = 0; i < 100; i++) strcat(deep, "[");
    CONFIG_SAYS(deep, "!at most 64 brackets");
    for (int i = 0; i < 9; i++) strcat(many, ",'layer_types':['sliding_attention']");
    CONFIG_SAYS(many, "!expected '}'");
    CONFIG_SAYS("{'rope_theta':9,'rope_scaling':{'type':'linear','factor':2}", "!expected '}'");
    CONFIG_SAYS("{'rope_theta':9,'no_rope_layers':{'a':1}}", "!no_rope_layers");
    CONFIG_SAYS("{'rope_theta':9,'layer_types':{'a':1,'b':2}}", "!layer_types");
    CONFIG_SAYS("{'rope_theta':9,'rope_scaling':{'type':{'type':'linear'}}}", "!rope_scaling");
    CONFIG_SAYS("{'rope_theta':9,'':1,'rope_scaling':{'':1}}", "!not a key");
    CONFIG_SAYS("{'rope_theta':9,'rope_scaling':{'factor ':1}}", "!not a key");
}

/* A file of lists for longrope: "s", "l", "?" or, of a layer, "0.s"; ones, or "s:-1". */
static void lists_file(const char *path, const char *words)
{
    GgufBuilder b = {0};
    char text[512], *save = NULL;
    size_t size;
    float ones[P] = {1, 1, 1, 1};
    gb_key_str(&b, "general.architecture", "rope");
    snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char name[96], layer[16] = "", *colon = strchr(w, ':');
        if (colon) ones[0] = strtof(colon + 1, NULL);
        if (*w >= '0' && *w <= '9') snprintf(layer, sizeof layer, "blk.%c.", *w);
        snprintf(name, sizeof name, "%srope_factors_%s.weight", layer,
                 strchr(w, 's')   ? "short"
                 : strchr(w, 'l') ? "long"
                                  : "odd");
        gb_tensor(&b, name, T_F32, 1, (int64_t[]){P}, ones, sizeof ones);
    }
    uint8_t *file = gb_finish(&b, &size);
    FILE *f = fopen(path, "wb");
    MUST(f && fwrite(file, 1, size, f) == size && !fclose(f));
    free(file);
}

/* A tensor of the file of weights that no layer takes is refused. */
static void test_leftover(void)
{
    static const struct {
        const char *tensors, *layers, *want;
    } rows[] = {
        {"s l", NULL, "longrope:"},
        {"s l ?", NULL, "!'rope_factors_odd.weight'"},
        {"0.s 1.s 2.s 3.s l", NULL, "longrope:"},
        {"0.s 1.s 2.s 3.s 4.s l", NULL, "!'blk.4.rope_factors_short.weight'"},
        {"0.s 1.s 2.s 3.s s l", NULL, "!'rope_factors_short.weight'"},
        {"0.s 1.s 2.s 3.s l", "0", "longrope:"},
        {"0.s 1.s 2.s 3.? l", "0", "!'blk.3.rope_factors_odd.weight'"},
        {"0.s 1.s 4.s l", "0", "!'blk.4.rope_factors_short.weight'"},
        {"s:-1 l", NULL, "!divisor 0 is -1"},
    };
    char path[] = "build/test_rope_files_XXXXXX.gguf", spec[100];
    int fd = mkstemps(path, 5);
    if (!CHECK(fd >= 0)) return;
    close(fd);
    snprintf(spec, sizeof spec, "longrope:factor=1,file=%s", path);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Model m;
        ModelOptions o = {.rope = spec, .rope_layers = rows[i].layers};
        const char *want = rows[i].want;
        lists_file(path, rows[i].tensors);
        int rc = load(&m, "", &o);
        if (*want == '!')
            CHECK_MSG(rc == -1 && strncmp(err.msg, path, strlen(path)) == 0 &&
                          strstr(err.msg, want + 1),
                      "%s: %s", rows[i].tensors, rc ? err.msg : "accepted");
        else
            CHECK_MSG(rc == 0, "%s: %s", rows[i].tensors, err.msg);
        if (rc == 0) model_close(&m);
    }
    unlink(path);
}

/* The whole way: a file named on the command line, with lists that end up in the encoding. */
static void test_open(void)
{
    char path[] = "build/test_rope_files_XXXXXX.json";
    const char *json = "{\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"longrope\",\"factor\":2,"
                       "\"original_max_position_embeddings\":64,\"short_factor\":[1,2,4,8],"
                       "\"long_factor\":[2,4,8,16]}}";
    int fd = mkstemps(path, 5);
    if (!CHECK(fd >= 0)) return;
    CHECK(write(fd, json, strlen(json)) == (ssize_t)strlen(json));
    close(fd);
    ModelOptions o = {.rope = path}, some = {.rope = path, .rope_layers = "0"};
    Model m;
    if (CHECK_MSG(load(&m, "rope_freqs.weight=v:3,3,3,3", &o) == 0, "%s", err.msg)) {
        for (int j = 0; j < P; j++) /* powers of two; the file's divisors are not for it */
            CHECK(fabs(m.rope->inv_freq[j] * (1 << j) / pow(10000, -2.0 * j / D) - 1) < 1e-14);
        CHECK(m.n_ropes == 1);
        model_close(&m);
    }
    check_file(__LINE__, "", "0: longrope:base=10000,original=64,factor=2", &some);
    check_file(__LINE__, "", "1: plain:base=10000", &some);
    check_file(__LINE__, "rope.dimension_count=u:4", "2: plain:base=10000,n_rot=4", &some);
    if (CHECK(load(&m, "", &some) == 0)) {
        const char *said = strstr(m.config_rope, ".json: ");
        CHECK_MSG(said && !strcmp(said + 7, "longrope:base=10000,original=64,factor=2 in layers 0"),
                  "%s", m.config_rope);
        model_close(&m);
    }
    o.rope = "no/such.json";
    check_file(__LINE__, "", "!no/such.json", &o);
    unlink(path);
}

int main(void)
{
    test_keys();
    test_refused_keys();
    test_yarn();
    test_longrope();
    test_own_key();
    test_own_list();
    test_override();
    test_shapes();
    test_scalings();
    test_yarn_config();
    test_longrope_config();
    test_layers();
    test_families();
    test_other_shape();
    test_messages();
    test_hostile();
    test_open();
    test_leftover();
    return check_done();
}
