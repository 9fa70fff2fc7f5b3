/* Teams of threads on small models. Include model.h and check.h first.
 *
 * forward wakes a thread for every 10^6 multiplications of a batch, so that a model of 10^4 weights
 * runs on one whatever it is told. Here each token is said to be worth more than any team, and a
 * probe counts the threads that there were. */
#ifndef TEAM_H
#define TEAM_H

#ifdef _OPENMP
#include <omp.h>
#endif

CHECK_FN void team_wanted(Model *m)
{
    m->n_active = 1000 * 1000 * 1000;
}

/* Threads of the team that runs forward when `wanted` are asked for. */
CHECK_FN int team_expected(int wanted)
{
#ifdef _OPENMP
    return wanted;
#else
    (void)wanted;
    return 1;
#endif
}

/* For a probe's callbacks: the size of the team that calls them. */
CHECK_FN void team_count(int *team)
{
#ifdef _OPENMP
#pragma omp atomic write
    *team = omp_get_num_threads();
#else
    *team = 1;
#endif
}

CHECK_FN void team_see(void *ctx, const AttnRow *row)
{
    (void)row;
    team_count(ctx);
}

/* A probe that leaves the size of the team in *team. */
CHECK_FN Probe team_probe(int *team)
{
    *team = 0;
    return (Probe){.want = PROBE_ATTN, .ctx = team, .attn = team_see};
}

#endif
