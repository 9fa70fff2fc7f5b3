/* A model in C of the AMX instructions that kernels/amx.c uses, in the place of the intrinsics, so
 * that the unchanged kernel runs on a CPU without them. Include it after <immintrin.h>.
 *
 * From the Intel SDM, volume 2, LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBSSD, TILERELEASE:
 * what raises #GP or #UD there ends the program here, and every instruction leaves zeros in the
 * part of a tile that it does not set. Beyond the hardware it refuses to load a configuration over
 * another, and a count of loads and releases tells whether every call gave its tiles back. It knows
 * nothing of time, of XCR0, nor of the permission of the operating system. */
#ifndef ROPESCOPE_AMX_MODEL_H
#define ROPESCOPE_AMX_MODEL_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The 64 bytes of a configuration, as in memory. */
typedef struct {
    uint8_t palette, start_row, zero[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} AmxConfig;
_Static_assert(sizeof(AmxConfig) == 64, "a tile configuration");

typedef union {
    uint8_t byte[16][64];
    int8_t s8[16][64];
    int32_t s32[16][16];
} AmxTile;

/* Per thread, as the registers are. palette 0: not configured. */
static _Thread_local AmxConfig amx_config;
static _Thread_local AmxTile amx_tile[8];
static _Thread_local long amx_loads, amx_releases, amx_products;

#define AMX_MUST(cond, fault)                                                                      \
    do {                                                                                           \
        if (cond) break;                                                                           \
        fprintf(stderr, "amx_model: %s: %s: not %s\n", __func__, fault, #cond);                    \
        abort();                                                                                   \
    } while (0)

/* Tile t may be used: configured, a whole number of 32-bit columns. */
static void amx_check(int t)
{
    AMX_MUST(amx_config.palette == 1, "#UD, tiles not configured");
    AMX_MUST(t >= 0 && t < 8, "#UD, no such tile");
    AMX_MUST(amx_config.rows[t] && amx_config.colsb[t], "#UD, tile not valid");
    AMX_MUST(amx_config.colsb[t] % 4 == 0, "#UD, a part of a column");
}

static void amx_loadconfig(const void *p)
{
    AmxConfig c;
    memcpy(&c, p, sizeof c);
    AMX_MUST(amx_config.palette == 0, "a configuration was not released");
    AMX_MUST(c.palette <= 1, "#GP, palette");
    AMX_MUST(c.palette == 1, "palette 0 makes no tiles");
    for (int i = 0; i < 14; i++) AMX_MUST(c.zero[i] == 0, "#GP, reserved bytes 2-15");
    for (int t = 8; t < 16; t++)
        AMX_MUST(c.colsb[t] == 0 && c.rows[t] == 0, "#GP, palette 1 has 8 tiles");
    for (int t = 0; t < 8; t++) {
        AMX_MUST(c.rows[t] <= 16, "#GP, rows");
        AMX_MUST(c.colsb[t] <= 64, "#GP, bytes per row");
        AMX_MUST(!c.rows[t] == !c.colsb[t], "#GP, half a shape");
    }
    AMX_MUST(c.start_row == 0, "a restart is not modelled");
    amx_config = c;
    memset(amx_tile, 0, sizeof amx_tile);
    amx_loads++;
}

static void amx_release(void)
{
    memset(&amx_config, 0, sizeof amx_config);
    memset(amx_tile, 0, sizeof amx_tile);
    amx_releases++;
}

static void amx_loadd(int t, const void *base, int64_t stride)
{
    amx_check(t);
    memset(&amx_tile[t], 0, sizeof amx_tile[t]);
    for (int r = 0; r < amx_config.rows[t]; r++)
        memcpy(amx_tile[t].byte[r], (const char *)base + r * stride, amx_config.colsb[t]);
}

static void amx_stored(int t, void *base, int64_t stride)
{
    amx_check(t);
    for (int r = 0; r < amx_config.rows[t]; r++)
        memcpy((char *)base + r * stride, amx_tile[t].byte[r], amx_config.colsb[t]);
}

static void amx_zero(int t)
{
    AMX_MUST(amx_config.palette == 1, "#UD, tiles not configured");
    AMX_MUST(t >= 0 && t < 8 && amx_config.rows[t], "#UD, tile not valid");
    memset(&amx_tile[t], 0, sizeof amx_tile[t]);
}

/* c[m][n] += sum_k sum_i a[m][4k + i] * b[k][4n + i], signed bytes, sums modulo 2^32. */
static void amx_dpbssd(int c, int a, int b)
{
    AMX_MUST(c != a && c != b && a != b, "#UD, one tile twice");
    amx_check(c), amx_check(a), amx_check(b);
    const int M = amx_config.rows[c], N = amx_config.colsb[c] / 4, K = amx_config.colsb[a] / 4;
    AMX_MUST(amx_config.rows[a] == M, "#UD, shapes");
    AMX_MUST(amx_config.colsb[b] / 4 == N, "#UD, shapes");
    AMX_MUST(amx_config.rows[b] == K, "#UD, shapes");
    AmxTile out;
    memset(&out, 0, sizeof out);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            uint32_t sum = (uint32_t)amx_tile[c].s32[m][n];
            for (int k = 0; k < K; k++)
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)(amx_tile[a].s8[m][4 * k + i] * amx_tile[b].s8[k][4 * n + i]);
            out.s32[m][n] = (int32_t)sum;
        }
    amx_tile[c] = out;
    amx_products++;
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#define _tile_loadconfig           amx_loadconfig
#define _tile_release              amx_release
#define _tile_loadd(t, p, stride)  amx_loadd(t, p, (int64_t)(stride))
#define _tile_stored(t, p, stride) amx_stored(t, p, (int64_t)(stride))
#define _tile_zero                 amx_zero
#define _tile_dpbssd               amx_dpbssd

#endif
