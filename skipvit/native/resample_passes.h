/* The two passes, in the instructions that TARGET names. resample.c includes this once for each, after what keeps sixteen
 * sums in their registers: NAMED(start), NAMED(added) and NAMED(store). */

TARGET static void NAMED(rows)(ROWS) {
    int begin = spans[0], read = spans[2 * out - 2] + spans[2 * out - 1] - begin;
    for (int y = 0; y < count; y += 4) {
        const uint8_t *from[4];
        uint8_t *to[4];
        for (int r = 0; r < 4; r++) {
            int row = y + r < count ? y + r : count - 1; /* what is short of four is the last row again */
            from[r] = pixels + row * pitch;
            to[r] = result + row * result_pitch;
        }
        /* (x, row, channel): a load then has a pixel of all four rows */
        for (int x = 0; x < read; x++)
            for (int r = 0; r < 4; r++) memcpy(four + 16 * (int64_t)x + 4 * r, from[r] + 4 * (int64_t)x, 4);
        for (int i = 0; i < out; i++) {
            const int32_t *own = weights + (int64_t)i * taps;
            const uint8_t *first = four + 16 * (int64_t)(spans[2 * i] - begin);
            NAMED(sums) sums = NAMED(start)();
            for (int k = 0; k < spans[2 * i + 1]; k++) sums = NAMED(added)(sums, first + 16 * (int64_t)k, own[k]);
            uint8_t values[16];
            NAMED(store)(sums, values);
            /* A fourth byte that is not wanted is overwritten by the next pixel; behind the last there may be no room. */
            for (int r = 0; r < 4; r++)
                if (i + 1 < out || step == 4)
                    memcpy(to[r] + (int64_t)i * step, values + 4 * r, 4);
                else
                    memcpy(to[r] + (int64_t)i * step, values + 4 * r, 3);
        }
    }
}

TARGET static void NAMED(columns)(COLUMNS) {
    for (int i = 0; i < out; i++) {
        const int32_t *own = weights + (int64_t)i * taps;
        const uint8_t *first = pixels + (int64_t)(spans[2 * i] - spans[0]) * pitch;
        uint8_t *to = result + i * result_pitch;
        int x = 0;
        for (; x + 16 <= width; x += 16) {
            NAMED(sums) sums = NAMED(start)();
            for (int k = 0; k < spans[2 * i + 1]; k++) sums = NAMED(added)(sums, first + k * pitch + x, own[k]);
            NAMED(store)(sums, to + x);
        }
        for (; x < width; x++) {
            int32_t sum = HALF;
            for (int k = 0; k < spans[2 * i + 1]; k++) sum += first[k * pitch + x] * own[k];
            sum >>= PRECISION_BITS;
            to[x] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
        }
    }
}
