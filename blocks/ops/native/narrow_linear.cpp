// y_ro = bias_o + sum_i w_oi x_ri for few rows r, with weights that are narrower than the numbers they are multiplied with: int8 times
// the scale of their group, or bfloat16.
//
// Few rows are bound by the reading of weights, so each weight is read once, and widened in registers. An output is a sum in an order
// that hangs on the number of inputs alone: not on threads, and not on the other rows.
#include "simd.h"

constexpr int64_t GROUP = 64;  // as GROUP in narrow_linear.py; a multiple of LANES
constexpr int OUTPUTS = LANES == 16 ? 4 : 2, ROWS = 4;  // of which the sums are held in registers
constexpr int64_t AHEAD = 8192;  // bytes; processors foresee the next line of one row, and rows are short

// A layer, which stays the same from call to call and may be shared by threads.
struct Layer {
    const void* weight;  // (outputs, inputs) of int8 or bfloat16
    const float *scales, *bias;  // (outputs, groups) for int8, null for bfloat16; (outputs,) or null
    int64_t inputs, outputs;
};

struct Narrow : Layer {
    const float* x;  // (rows, inputs)
    float* y;  // (rows, outputs)
    int64_t rows, threads;
};

template <typename Code>
INLINE const Code* row_of(const Narrow& s, int64_t output) {
    return (const Code*)s.weight + output * s.inputs;
}

INLINE float scale_of(const Narrow& s, int64_t output, int64_t input) {
    return s.scales ? s.scales[output * ((s.inputs + GROUP - 1) / GROUP) + input / GROUP] : 1.f;
}

// Outputs `output` to `output` + O of rows `row` to `row` + R.
template <typename Code, int O, int R>
INLINE void tile(const Narrow& s, int64_t output, int64_t row) {
    Vec sums[O][R] = {};
    auto add = [&](int64_t input, int64_t count, const float* scales) __attribute__((always_inline)) {
        Vec w[O];
        for (int o = 0; o < O; o++) {
            w[o] = widened(row_of<Code>(s, output + o) + input, count);
            if (sizeof(Code) == 1) w[o] *= scales[o];
        }
        for (int r = 0; r < R; r++) {
            Vec x = load(s.x + (row + r) * s.inputs + input, count);
            for (int o = 0; o < O; o++) sums[o][r] += w[o] * x;
        }
    };
    for (int64_t first = 0; first < s.inputs; first += GROUP) {
        float scales[O];
        for (int o = 0; o < O; o++) {
            scales[o] = scale_of(s, output + o, first);
            auto later = (const char*)(row_of<Code>(s, output + o) + first) + AHEAD;
            for (size_t line = 0; line < sizeof(Code); line++) will_read((const float*)(later + 64 * line));
        }
        int64_t left = s.inputs - first;
        if (left >= GROUP) {  // a loop of known length
            for (int64_t i = 0; i < GROUP; i += LANES) add(first + i, LANES, scales);
        } else {
            for (int64_t i = 0; i < left; i += LANES) add(first + i, left - i < LANES ? left - i : LANES, scales);
        }
    }
    for (int o = 0; o < O; o++)
        for (int r = 0; r < R; r++)
            s.y[(row + r) * s.outputs + output + o] = sum(sums[o][r]) + (s.bias ? s.bias[output + o] : 0.f);
}

template <typename Code, int O>
INLINE void all_rows(const Narrow& s, int64_t output) {
    int64_t row = 0;
    for (; row + ROWS <= s.rows; row += ROWS) tile<Code, O, ROWS>(s, output, row);
    for (; row < s.rows; row++) tile<Code, O, 1>(s, output, row);
}

template <typename Code>
static void linear(const Narrow& s) {
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t part = 0; part < s.threads; part++) {
        int64_t output = s.outputs * part / s.threads, end = s.outputs * (part + 1) / s.threads;
        for (; output + OUTPUTS <= end; output += OUTPUTS) all_rows<Code, OUTPUTS>(s, output);
        for (; output < end; output++) all_rows<Code, 1>(s, output);
    }
}

// Writes outputs `first` to `end` of the weights into y as floats (end - first, inputs), for products of many rows.
template <typename Code>
static void widen(const Narrow& s, int64_t first, int64_t end) {
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t output = first; output < end; output++) {
        const Code* row = row_of<Code>(s, output);
        float* to = s.y + (output - first) * s.inputs;
        for (int64_t input = 0; input < s.inputs; input += GROUP) {
            float scale = scale_of(s, output, input);
            auto write = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
                Vec w = widened(row + i, count);
                store(to + i, sizeof(Code) == 1 ? w * scale : w, count);
            };
            int64_t left = s.inputs - input;
            if (left >= GROUP) {
                for (int64_t i = 0; i < GROUP; i += LANES) write(input + i, LANES);
            } else {
                for (int64_t i = 0; i < left; i += LANES) write(input + i, left - i);
            }
        }
    }
}

EXPORT void linear_layer(const Layer* layer, const float* x, float* y, int64_t rows, int64_t threads) {
    Narrow s{*layer, x, y, rows, threads};
    s.scales ? linear<int8_t>(s) : linear<uint16_t>(s);
}

EXPORT void widen_layer(const Layer* layer, float* y, int64_t first, int64_t end, int64_t threads) {
    Narrow s{*layer, nullptr, y, 0, threads};
    s.scales ? widen<int8_t>(s, first, end) : widen<uint16_t>(s, first, end);
}
