/* Pillow's resampling of 8-bit RGB pictures, to the last bit, on sixteen values at once.
 *
 * The arithmetic is that of Pillow (Resample.c of its libImaging): weights in double precision, normalised, rounded to 22
 * bits after the point; a pass along each axis, each rounding to 8 bits. Sums of integers do not depend on the order, so
 * nothing changes when four rows, or sixteen bytes of a row, are taken at a time.
 *
 * Nothing here allocates or checks: skipvit/resampling.py does both, and knows in which order Pillow takes the axes.
 * A pixel has four bytes, as Pillow keeps RGB, of which the fourth is of no account.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define PRECISION_BITS 22
#define HALF (1 << (PRECISION_BITS - 1))

enum filter { BOX, BILINEAR, BICUBIC, LANCZOS };
static const double SUPPORT[] = {0.5, 1.0, 2.0, 3.0};

static double sinc(double x) {
    const double pi = 3.14159265358979323846;
    return x == 0.0 ? 1.0 : sin(x * pi) / (x * pi);
}

static double weight(enum filter filter, double x) {
    const double a = -0.5;
    double far = x < 0.0 ? -x : x;
    switch (filter) {
    case BOX:
        return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case BILINEAR:
        return far < 1.0 ? 1.0 - far : 0.0;
    case BICUBIC:
        if (far < 1.0) return ((a + 2.0) * far - (a + 3.0)) * far * far + 1;
        return far < 2.0 ? (((far - 5) * far + 8) * far - 4) * a : 0.0;
    default:
        return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    }
}

static double stretch_of(double scale) { return scale < 1.0 ? 1.0 : scale; }

/* The most inputs that one of `out` outputs takes, which lie evenly between `start` and `end`. */
int skipvit_taps(float start, float end, int out, int filter) {
    double scale = (double)(end - start) / out;
    return (int)ceil(SUPPORT[filter] * stretch_of(scale)) * 2 + 1;
}

/* spans (out, 2): the first of the `in` inputs that an output takes, and how many; weights (out, taps): theirs, times 2**22.
 * `scratch` has room for `taps` values. */
void skipvit_weights(int in, float start, float end, int out, int filter, int32_t *spans, int32_t *weights, double *scratch) {
    double scale = (double)(end - start) / out, stretch = stretch_of(scale);
    double support = SUPPORT[filter] * stretch, per_input = 1.0 / stretch;
    int taps = skipvit_taps(start, end, out, filter);
    for (int i = 0; i < out; i++) {
        double centre = start + (i + 0.5) * scale, total = 0.0;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (last > in) last = in;
        int count = last - first;
        for (int k = 0; k < count; k++) {
            scratch[k] = weight(filter, (k + first - centre + 0.5) * per_input);
            total += scratch[k];
        }
        int32_t *own = weights + (int64_t)i * taps;
        for (int k = 0; k < count; k++) {
            double value = (total != 0.0 ? scratch[k] / total : scratch[k]) * (1 << PRECISION_BITS);
            own[k] = (int32_t)(value < 0 ? value - 0.5 : value + 0.5);
        }
        spans[2 * i] = first;
        spans[2 * i + 1] = count;
    }
}

/* Of `count` rows, `pitch` bytes apart, `out` pixels each; spans[0] is the column that `pixels` starts with. An output has
 * `step` bytes, 3 or 4. `four` has room for four rows of what is read. */
#define ROWS                                                                                                                \
    const uint8_t *pixels, int64_t pitch, int count, const int32_t *spans, const int32_t *weights, int taps, int out,        \
        int step, uint8_t *four, uint8_t *result, int64_t result_pitch

/* `out` rows of `width` bytes; spans[0] is the row that `pixels` starts with. */
#define COLUMNS                                                                                                             \
    const uint8_t *pixels, int64_t pitch, int width, const int32_t *spans, const int32_t *weights, int taps, int out,        \
        uint8_t *result, int64_t result_pitch

#define TARGET
#define NAMED(name) name##_plain
typedef struct {
    int32_t of[16];
} sums_plain;

static inline sums_plain start_plain(void) {
    sums_plain sums;
    for (int i = 0; i < 16; i++) sums.of[i] = HALF;
    return sums;
}

static inline sums_plain added_plain(sums_plain sums, const uint8_t *bytes, int32_t weight) {
    for (int i = 0; i < 16; i++) sums.of[i] += bytes[i] * weight;
    return sums;
}

static inline void store_plain(sums_plain sums, uint8_t *to) {
    for (int i = 0; i < 16; i++) {
        int32_t value = sums.of[i] >> PRECISION_BITS;
        to[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}
#include "resample_passes.h"
#undef TARGET
#undef NAMED

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define NAMED(name) name##_avx2
typedef struct {
    __m256i low, high;
} sums_avx2;

TARGET static inline sums_avx2 start_avx2(void) { return (sums_avx2){_mm256_set1_epi32(HALF), _mm256_set1_epi32(HALF)}; }

TARGET static inline sums_avx2 added_avx2(sums_avx2 sums, const uint8_t *bytes, int32_t weight) {
    __m128i all = _mm_loadu_si128((const __m128i *)bytes);
    __m256i low = _mm256_cvtepu8_epi32(all), high = _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8));
    __m256i times = _mm256_set1_epi32(weight);
    sums.low = _mm256_add_epi32(sums.low, _mm256_mullo_epi32(low, times));
    sums.high = _mm256_add_epi32(sums.high, _mm256_mullo_epi32(high, times));
    return sums;
}

TARGET static inline void store_avx2(sums_avx2 sums, uint8_t *to) {
    __m256i low = _mm256_srai_epi32(sums.low, PRECISION_BITS), high = _mm256_srai_epi32(sums.high, PRECISION_BITS);
    /* Packing takes the halves of its operands in turns: 0xD8 puts them in order. */
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
}
#include "resample_passes.h"
#undef TARGET
#undef NAMED

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl")))
#define NAMED(name) name##_avx512
typedef __m512i sums_avx512;

TARGET static inline __m512i start_avx512(void) { return _mm512_set1_epi32(HALF); }

TARGET static inline __m512i added_avx512(__m512i sums, const uint8_t *bytes, int32_t weight) {
    __m512i values = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes));
    return _mm512_add_epi32(sums, _mm512_mullo_epi32(values, _mm512_set1_epi32(weight)));
}

TARGET static inline void store_avx512(__m512i sums, uint8_t *to) {
    __m512i values = _mm512_max_epi32(_mm512_srai_epi32(sums, PRECISION_BITS), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(values));
}
#include "resample_passes.h"
#undef TARGET
#undef NAMED
#endif

/* The widest instructions of this CPU that there is code for: 0 for those that every one has, 1 for AVX2, 2 for AVX-512. */
int skipvit_instructions(void) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return 2;
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

void skipvit_rows(int instructions, ROWS) {
#define CALL(name) rows_##name(pixels, pitch, count, spans, weights, taps, out, step, four, result, result_pitch)
#ifdef X86
    if (instructions == 2) { CALL(avx512); return; }
    if (instructions == 1) { CALL(avx2); return; }
#endif
    (void)instructions;
    CALL(plain);
#undef CALL
}

void skipvit_columns(int instructions, COLUMNS) {
#define CALL(name) columns_##name(pixels, pitch, width, spans, weights, taps, out, result, result_pitch)
#ifdef X86
    if (instructions == 2) { CALL(avx512); return; }
    if (instructions == 1) { CALL(avx2); return; }
#endif
    (void)instructions;
    CALL(plain);
#undef CALL
}
