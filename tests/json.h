/* A walker over our own JSON, for tests: get(json, "layers.0.heads.1.r_q.3"). Include check.h
 * first. */
#ifndef ROPESCOPE_TEST_JSON_H
#define ROPESCOPE_TEST_JSON_H

#include <string.h>

CHECK_FN const char *skip_value(const char *s)
{
    int depth = 0;
    do {
        if (*s == '"')
            for (s++; *s != '"'; s++) s += *s == '\\';
        depth += (*s == '[' || *s == '{') - (*s == ']' || *s == '}');
        s++;
    } while (depth > 0 || !strchr(",]}", *s));
    return s;
}

/* The start of the value at a path of keys and indices; NULL if there is none. */
CHECK_FN const char *find(const char *s, const char *path)
{
    while (*path) {
        size_t n = strcspn(path, ".");
        int array = *s++ == '[', at = atoi(path);
        for (;; s++) {
            while (*s == '\n' || *s == ' ') s++;
            if (*s == ']' || *s == '}') return NULL;
            if (array ? at-- == 0 : !strncmp(s + 1, path, n) && s[n + 1] == '"') break;
            s = skip_value(s);
            if (*s != ',') return NULL;
        }
        if (!array) s += n + 3;
        path += n + (path[n] == '.');
    }
    return s;
}

CHECK_FN double get(const char *json, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
CHECK_FN double get(const char *json, const char *fmt, ...)
{
    char path[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    const char *s = find(json, path);
    if (!CHECK_MSG(s != NULL, "no %s", path)) return 0;
    return strncmp(s, "null", 4) ? strtod(s, NULL) : (double)NAN;
}

CHECK_FN int length(const char *json, const char *path)
{
    const char *s = find(json, path);
    int n = 0;
    if (!s || s[1] == ']') return 0;
    for (s++, n = 1; *(s = skip_value(s)) == ','; s++) n++;
    return n;
}

CHECK_FN int near(double a, double b, double tol) /* absolute and relative; NaN is near nothing */
{
    return fabs(a - b) <= tol * (1 + fabs(b));
}

#define NEAR(a, b, tol) check_near(__LINE__, #a, a, b, tol)
CHECK_FN void check_near(int line, const char *what, double a, double b, double tol)
{
    check_msg(near(a, b, tol), __FILE__, line, what, "%.9g, expected %.9g", a, b);
}

/* Outside strings there is no letter of nan, inf, NaN but null's. */
CHECK_FN int json_has_no_nan(const char *s)
{
    int in_string = 0, n_bad = 0;
    for (const char *c = s; *c; c++) {
        if (*c == '"') in_string = !in_string;
        if (*c == '\\') c++;
        if (!in_string && strchr("aifNI", *c)) n_bad++;
    }
    return n_bad == 0 && !in_string;
}

#endif
