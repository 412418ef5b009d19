/* The operators that a scalar processor runs in place of an array, in C as a compiler gets them: int8 tensors, rows of pixels
   of channels (HWC), int32 sums, results scaled by a 32-bit multiplier and a shift. host_kernels.py compiles and counts them.
   Padding has been laid around the input before; the count of a kernel leaves that copy out. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline int8_t scaled(int32_t sum, int32_t multiplier, int shift) {
    int32_t value = (int32_t)(((int64_t)sum * multiplier) >> 32) >> shift;
    return value < -128 ? -128 : value > 127 ? 127 : value;
}

/* out[oy][ox][k] of a convolution with as many filter taps as fy, fx; c channels of each group. */
void conv(int8_t *restrict out, const int8_t *restrict in, const int8_t *restrict weights, const int32_t *restrict bias, int k, int c,
          int oy, int ox, int fy, int fx, int step, int ix, int groups, int multiplier, int shift) {
    int all = c * groups, each = k / groups;
    for (int y = 0; y < oy; y++)
        for (int x = 0; x < ox; x++)
            for (int o = 0; o < k; o++) {
                const int8_t *w = weights + o * fy * fx * c;
                int32_t sum = bias[o];
                for (int j = 0; j < fy; j++)
                    for (int i = 0; i < fx; i++) {
                        const int8_t *a = in + ((y + j * step) * ix + x + i * step) * all + o / each * c;
                        for (int m = 0; m < c; m++) sum += *a++ * *w++;
                    }
                *out++ = scaled(sum, multiplier, shift);
            }
}

/* The same for two pixels and two output channels at once: four sums out of four loads. k and ox even, one group. */
void conv_blocked(int8_t *restrict out, const int8_t *restrict in, const int8_t *restrict weights, const int32_t *restrict bias,
                  int k, int c, int oy, int ox, int fy, int fx, int step, int ix, int groups, int multiplier, int shift) {
    int taps = fy * fx * c;
    for (int y = 0; y < oy; y++)
        for (int x = 0; x < ox; x += 2, out += 2 * k)
            for (int o = 0; o < k; o += 2) {
                const int8_t *w = weights + o * taps;
                int32_t s00 = bias[o], s01 = bias[o + 1], s10 = s00, s11 = s01;
                for (int j = 0; j < fy; j++)
                    for (int i = 0; i < fx; i++) {
                        const int8_t *a = in + ((y + j * step) * ix + x + i * step) * c, *b = a + c;
                        for (int m = 0; m < c; m++, w++) {
                            int left = *a++, right = *b++, one = w[0], two = w[taps];
                            s00 += left * one, s01 += left * two, s10 += right * one, s11 += right * two;
                        }
                    }
                out[o] = scaled(s00, multiplier, shift), out[o + 1] = scaled(s01, multiplier, shift);
                out[k + o] = scaled(s10, multiplier, shift), out[k + o + 1] = scaled(s11, multiplier, shift);
            }
}

/* out[oy][ox][c], a filter a channel. */
void depthwise(int8_t *restrict out, const int8_t *restrict in, const int8_t *restrict weights, const int32_t *restrict bias, int c,
               int oy, int ox, int fy, int fx, int ix, int multiplier, int shift) {
    for (int y = 0; y < oy; y++)
        for (int x = 0; x < ox; x++)
            for (int m = 0; m < c; m++) {
                int32_t sum = bias[m];
                for (int j = 0; j < fy; j++)
                    for (int i = 0; i < fx; i++) sum += in[((y + j) * ix + x + i) * c + m] * weights[(j * fx + i) * c + m];
                *out++ = scaled(sum, multiplier, shift);
            }
}

/* out[rows][k] = a[rows][c] b[k][c]: both are activations, b laid out as scores of attention read it. */
void matmul(int8_t *restrict out, const int8_t *restrict a, const int8_t *restrict b, int rows, int k, int c, int multiplier, int shift) {
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < k; o++) {
            const int8_t *left = a + r * c, *right = b + o * c;
            int32_t sum = 0;
            for (int m = 0; m < c; m++) sum += *left++ * *right++;
            *out++ = scaled(sum, multiplier, shift);
        }
}

/* Two tensors of different scales. */
void add(int8_t *restrict out, const int8_t *restrict a, const int8_t *restrict b, int n, int of_a, int of_b, int shift) {
    for (int i = 0; i < n; i++) {
        int value = (a[i] * of_a + b[i] * of_b) >> shift;
        out[i] = value < -128 ? -128 : value > 127 ? 127 : value;
    }
}

/* The largest of fy x fx, and the mean of as many; c channels, windows beside each other. */
void max_pool(int8_t *restrict out, const int8_t *restrict in, int c, int oy, int ox, int fy, int fx) {
    for (int y = 0; y < oy; y++)
        for (int x = 0; x < ox; x++)
            for (int m = 0; m < c; m++) {
                int most = -128;
                for (int j = 0; j < fy; j++)
                    for (int i = 0; i < fx; i++) {
                        int value = in[((y * fy + j) * ox * fx + x * fx + i) * c + m];
                        most = value > most ? value : most;
                    }
                *out++ = most;
            }
}

void avg_pool(int8_t *restrict out, const int8_t *restrict in, int c, int oy, int ox, int fy, int fx, int multiplier, int shift) {
    for (int y = 0; y < oy; y++)
        for (int x = 0; x < ox; x++)
            for (int m = 0; m < c; m++) {
                int32_t sum = 0;
                for (int j = 0; j < fy; j++)
                    for (int i = 0; i < fx; i++) sum += in[((y * fy + j) * ox * fx + x * fx + i) * c + m];
                *out++ = scaled(sum, multiplier, shift);
            }
}

/* Channels of two tensors beside each other, with the C library's copy, and a register at a time where all is aligned. */
void concat(int8_t *restrict out, const int8_t *restrict a, const int8_t *restrict b, int pixels, int of_a, int of_b) {
    for (int i = 0; i < pixels; i++, out += of_a + of_b, a += of_a, b += of_b) memcpy(out, a, of_a), memcpy(out + of_a, b, of_b);
}

typedef uintptr_t __attribute__((may_alias)) Word;

void concat_words(Word *restrict out, const Word *restrict a, const Word *restrict b, int pixels, int of_a, int of_b) {
    for (int i = 0; i < pixels; i++) {
        for (int m = 0; m < of_a; m += sizeof(Word)) *out++ = *a++;
        for (int m = 0; m < of_b; m += sizeof(Word)) *out++ = *b++;
    }
}

/* Any function of one int8 number: a table of 256. */
void function(int8_t *restrict out, const int8_t *restrict in, const int8_t *restrict table, int n) {
    for (int i = 0; i < n; i++) out[i] = table[in[i] + 128];
}

/* A function in floating point: GELU by its error function. */
void gelu_float(int8_t *restrict out, const int8_t *restrict in, int n, float of_in, float of_out) {
    for (int i = 0; i < n; i++) {
        float x = in[i] * of_in, y = 0.5f * x * (1.0f + erff(x * 0.70710678f)) * of_out;
        int value = (int)(y + (y < 0 ? -0.5f : 0.5f));
        out[i] = value < -128 ? -128 : value > 127 ? 127 : value;
    }
}

/* Softmax of rows: exponentials of the distance to the largest out of a table, in 16.16 bits. */
void softmax(int8_t *restrict out, const int8_t *restrict in, const int32_t *restrict exponentials, int rows, int n) {
    for (int r = 0; r < rows; r++, in += n, out += n) {
        int most = -128;
        uint32_t sum = 0;
        for (int i = 0; i < n; i++) most = in[i] > most ? in[i] : most;
        for (int i = 0; i < n; i++) sum += exponentials[most - in[i]];
        uint32_t share = 0xffffffffu / sum;
        for (int i = 0; i < n; i++) {
            uint32_t value = ((uint64_t)(uint32_t)exponentials[most - in[i]] * share) >> 24;
            out[i] = (value > 255 ? 255 : value) - 128;
        }
    }
}

void softmax_float(int8_t *restrict out, const int8_t *restrict in, float *restrict kept, int rows, int n, float of_in) {
    for (int r = 0; r < rows; r++, in += n, out += n) {
        float most = -128, sum = 0;
        for (int i = 0; i < n; i++) most = in[i] > most ? in[i] : most;
        for (int i = 0; i < n; i++) sum += kept[i] = expf((in[i] - most) * of_in);
        for (int i = 0; i < n; i++) out[i] = (int)(kept[i] / sum * 255.0f + 0.5f) - 128;
    }
}

/* Layer norm of rows: mean and variance in integers, their root by Newton's steps. */
void norm(int8_t *restrict out, const int8_t *restrict in, const int32_t *restrict scales, const int32_t *restrict shifts, int rows, int n) {
    for (int r = 0; r < rows; r++, in += n, out += n) {
        int32_t sum = 0, squares = 0;
        for (int i = 0; i < n; i++) sum += in[i], squares += in[i] * in[i];
        uint32_t spread = (uint32_t)(n * squares - sum * sum), root = spread / 2 + 1;
        for (uint32_t next = (root + spread / root) / 2; next < root; next = (root + spread / root) / 2) root = next;
        int32_t share = (1 << 20) / (int32_t)(root + 1);
        for (int i = 0; i < n; i++) {
            int32_t value = ((((n * in[i] - sum) * share) >> 10) * scales[i] + shifts[i]) >> 16;
            out[i] = value < -128 ? -128 : value > 127 ? 127 : value;
        }
    }
}

void norm_float(int8_t *restrict out, const int8_t *restrict in, const float *restrict scales, const float *restrict shifts, int rows, int n) {
    for (int r = 0; r < rows; r++, in += n, out += n) {
        float sum = 0, squares = 0;
        for (int i = 0; i < n; i++) sum += in[i], squares += (float)in[i] * in[i];
        float mean = sum / n, share = 1.0f / sqrtf(squares / n - mean * mean + 1e-5f);
        for (int i = 0; i < n; i++) {
            float y = (in[i] - mean) * share * scales[i] + shifts[i];
            int value = (int)(y + (y < 0 ? -0.5f : 0.5f));
            out[i] = value < -128 ? -128 : value > 127 ? 127 : value;
        }
    }
}
