// y_t = act(bias + sum_i w_i x_{t-k+1+i}) per channel, and its gradients; act is silu or nothing.
//
// Rows are steps, as in selective_scan.cpp. Before a segment's first row lie the k - 1 rows of its state, or zeros.
#include "simd.h"

constexpr int64_t MOST_TAPS = 64;  // as MOST_TAPS in causal_conv1d/native.py

struct Conv {
    const float *x, *weight, *bias, *state;  // weight (k, D), state (S, k-1, D); bias and state may be missing
    const int64_t* borders;
    float* y;
    const float* grad_y;
    float *grad_inner, *grad_x, *grad_weight, *grad_bias, *grad_state;  // of weight and bias: one of each part
    int64_t segments, channels, width, x_row, grad_y_row, act, threads;  // width: k
};

// Row r of a segment, which begins at row `first` of x; negative rows are those of its state. Null for zeros.
INLINE const float* row_of(const Conv& s, int64_t segment, int64_t first, int64_t r) {
    if (r >= 0) return s.x + (first + r) * s.x_row;
    return s.state ? s.state + (segment * (s.width - 1) + s.width - 1 + r) * s.channels : nullptr;
}

INLINE Vec inner_at(const Conv& s, const float* const* taps, int64_t d, int64_t lanes) {
    Vec y = s.bias ? load(s.bias + d, lanes) : Vec{};
    for (int64_t i = 0; i < s.width; i++)
        if (taps[i]) y += load(taps[i] + d, lanes) * load(s.weight + i * s.channels + d, lanes);
    return y;
}

// Calls work(segment, first row, row within the segment) for rows `begin` to `end` of all.
template <typename Work>
INLINE void over_rows(const Conv& s, int64_t begin, int64_t end, Work work) {
    int64_t segment = 0;
    for (int64_t row = begin; row < end; row++) {
        while (row >= s.borders[segment + 1]) segment++;
        work(segment, s.borders[segment], row - s.borders[segment]);
    }
}

static void taps_of(const Conv& s, int64_t segment, int64_t first, int64_t r, const float** taps) {
    for (int64_t i = 0; i < s.width; i++) taps[i] = row_of(s, segment, first, r - s.width + 1 + i);
}

EXPORT void causal_conv1d(const Conv* call) {
    const Conv& s = *call;
    int64_t rows = s.borders[s.segments];
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t part = 0; part < s.threads; part++) {
        const float* taps[MOST_TAPS];
        over_rows(s, rows * part / s.threads, rows * (part + 1) / s.threads, [&](int64_t segment, int64_t first, int64_t r) {
            taps_of(s, segment, first, r, taps);
            for (int64_t d = 0; d < s.channels; d += LANES) {
                int64_t lanes = s.channels - d < LANES ? s.channels - d : LANES;
                Vec y = inner_at(s, taps, d, lanes);
                if (s.act) y *= sigmoid(y);
                store(s.y + (first + r) * s.channels + d, y, lanes);
            }
        });
    }
}

EXPORT void causal_conv1d_backward(const Conv* call) {
    const Conv& s = *call;
    int64_t rows = s.borders[s.segments], D = s.channels;
    // of what stands before the activation, and of weight and bias, added up by part
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t part = 0; part < s.threads; part++) {
        const float* taps[MOST_TAPS];
        float *grad_weight = s.grad_weight + part * s.width * D, *grad_bias = s.grad_bias ? s.grad_bias + part * D : 0;
        over_rows(s, rows * part / s.threads, rows * (part + 1) / s.threads, [&](int64_t segment, int64_t first, int64_t r) {
            taps_of(s, segment, first, r, taps);
            for (int64_t d = 0; d < D; d += LANES) {
                int64_t lanes = D - d < LANES ? D - d : LANES;
                Vec grad = load(s.grad_y + (first + r) * s.grad_y_row + d, lanes);
                if (s.act) {
                    Vec y = inner_at(s, taps, d, lanes), open = sigmoid(y);
                    grad *= open * (1.f + y * (1.f - open));
                }
                store(s.grad_inner + (first + r) * D + d, grad, lanes);
                if (grad_bias) store(grad_bias + d, load(grad_bias + d, lanes) + grad, lanes);
                for (int64_t i = 0; i < s.width; i++)
                    if (taps[i]) {
                        float* at = grad_weight + i * D + d;
                        store(at, load(at, lanes) + grad * load(taps[i] + d, lanes), lanes);
                    }
            }
        });
    }
    // of x, and of the rows of the state, which come before it: from the outputs that see a row
    int64_t before = s.grad_state ? s.width - 1 : 0;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t part = 0; part < s.threads; part++) {
        auto gather = [&](int64_t segment, int64_t first, int64_t r, float* to) {
            int64_t length = s.borders[segment + 1] - first;
            for (int64_t d = 0; d < D; d += LANES) {
                int64_t lanes = D - d < LANES ? D - d : LANES;
                Vec grad = {};
                for (int64_t i = 0; i < s.width; i++) {
                    int64_t seen_by = r + s.width - 1 - i;
                    if (seen_by >= 0 && seen_by < length)
                        grad += load(s.weight + i * D + d, lanes) * load(s.grad_inner + (first + seen_by) * D + d, lanes);
                }
                store(to + d, grad, lanes);
            }
        };
        over_rows(s, rows * part / s.threads, rows * (part + 1) / s.threads,
                  [&](int64_t segment, int64_t first, int64_t r) { gather(segment, first, r, s.grad_x + (first + r) * D); });
        for (int64_t segment = s.segments * part / s.threads; segment < s.segments * (part + 1) / s.threads; segment++)
            for (int64_t r = -before; r < 0; r++)
                gather(segment, s.borders[segment], r, s.grad_state + (segment * before + before + r) * D);
    }
}
