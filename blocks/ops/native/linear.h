// y_ro = bias_o + sum_i w_oi x_ri for few rows r, with weights as narrow as they are kept: int8 times the scale of their group, bfloat16
// or float32.
//
// Few rows are bound by the reading of weights, so each weight is read once, and widened in registers. An output is a sum in an order
// that hangs on the number of inputs alone: not on threads, and not on the other rows.
#pragma once

#include "simd.h"

#include <memory>

constexpr int64_t GROUP = 64;  // as GROUP in narrow_linear.py; a multiple of LANES
constexpr int OUTPUTS = LANES == 16 ? 4 : 2, ROWS = 4;  // of which the sums are held in registers
constexpr int64_t FEW = 16;  // rows up to which weights are read once, as FEW in narrow_linear.py
constexpr int64_t AHEAD = 8192;  // bytes; processors foresee the next line of one row, and rows are short

// A layer, which stays the same from call to call and may be shared by threads.
struct Layer {
    const void* weight;  // (outputs, inputs), `bytes` each: int8, bfloat16 or float32
    const float *scales, *bias;  // (outputs, groups) for int8, null for others; (outputs,) or null
    int64_t inputs, outputs, bytes;
};

struct Product : Layer {
    const float* x;  // rows of `inputs`, x_row apart
    float* y;  // rows of `outputs`, y_row apart
    int64_t rows, x_row, y_row;
};

template <typename Code>
INLINE const Code* row_of(const Layer& s, int64_t output) {
    return (const Code*)s.weight + output * s.inputs;
}

INLINE float scale_of(const Layer& s, int64_t output, int64_t input) {
    return s.scales ? s.scales[output * ((s.inputs + GROUP - 1) / GROUP) + input / GROUP] : 1.f;
}

// Outputs `output` to `output` + O of rows `row` to `row` + R.
template <typename Code, int O, int R>
INLINE void tile(const Product& s, int64_t output, int64_t row) {
    Vec sums[O][R] = {};
    auto add = [&](int64_t input, int64_t count, const float* scales) __attribute__((always_inline)) {
        Vec w[O];
        for (int o = 0; o < O; o++) {
            w[o] = widened(row_of<Code>(s, output + o) + input, count);
            if (sizeof(Code) == 1) w[o] *= scales[o];
        }
        for (int r = 0; r < R; r++) {
            Vec x = load(s.x + (row + r) * s.x_row + input, count);
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
            s.y[(row + r) * s.y_row + output + o] = sum(sums[o][r]) + (s.bias ? s.bias[output + o] : 0.f);
}

template <typename Code, int O>
INLINE void all_rows(const Product& s, int64_t output) {
    int64_t row = 0;
    for (; row + ROWS <= s.rows; row += ROWS) tile<Code, O, ROWS>(s, output, row);
    for (; row < s.rows; row++) tile<Code, O, 1>(s, output, row);
}

template <typename Code>
static void outputs_of(const Product& s, int64_t output, int64_t end) {
    for (; output + OUTPUTS <= end; output += OUTPUTS) all_rows<Code, OUTPUTS>(s, output);
    for (; output < end; output++) all_rows<Code, 1>(s, output);
}

// The outputs of one of so many parts.
static void linear(const Product& s, int64_t part, int64_t parts) {
    int64_t first = s.outputs * part / parts, end = s.outputs * (part + 1) / parts;
    if (s.bytes == 1)
        outputs_of<int8_t>(s, first, end);
    else if (s.bytes == 2)
        outputs_of<uint16_t>(s, first, end);
    else
        outputs_of<float>(s, first, end);
}

// Many rows are bound by arithmetic: weights are widened once, into a panel that waits in cache while all rows pass by.

constexpr int64_t ABREAST = 2 * LANES;    // outputs of a panel
constexpr int TALL = LANES == 16 ? 12 : 6;  // rows whose sums are held in registers

// Outputs from `output` on as floats (inputs, ABREAST), 0 beyond the last.
template <typename Code>
static void fill(const Layer& s, int64_t output, float* panel) {
    for (int64_t first = 0; first < s.inputs; first += LANES) {
        int64_t left = s.inputs - first, count = left < LANES ? left : LANES;
        for (int64_t half = 0; half < ABREAST; half += LANES) {
            Vec block[LANES] = {};
            for (int64_t o = 0; o < LANES && output + half + o < s.outputs; o++) {
                Vec w = widened(row_of<Code>(s, output + half + o) + first, count);
                block[o] = sizeof(Code) == 1 ? w * scale_of(s, output + half + o, first) : w;
            }
            transpose(block);
            for (int64_t i = 0; i < count; i++) store(panel + (first + i) * ABREAST + half, block[i]);
        }
    }
}

template <int R>
INLINE void pass(const Product& s, int64_t output, int64_t row, const float* panel) {
    Vec sums[R][2] = {};
    const float* x = s.x + row * s.x_row;
    for (int64_t i = 0; i < s.inputs; i++) {
        Vec low = load(panel + i * ABREAST), high = load(panel + i * ABREAST + LANES);
        for (int r = 0; r < R; r++) {
            float number = x[r * s.x_row + i];
            sums[r][0] += low * number;
            sums[r][1] += high * number;
        }
    }
    for (int half = 0; half < 2; half++) {
        int64_t at = output + half * LANES, left = s.outputs - at;
        if (left <= 0) return;
        Vec bias = s.bias ? load(s.bias + at, left) : Vec{};
        for (int r = 0; r < R; r++) store(s.y + (row + r) * s.y_row + at, sums[r][half] + bias, left);
    }
}

// ABREAST outputs of all rows; `panel` has room for their weights.
static void many_rows(const Product& s, int64_t output, float* panel) {
    if (s.bytes == 1)
        fill<int8_t>(s, output, panel);
    else if (s.bytes == 2)
        fill<uint16_t>(s, output, panel);
    else
        fill<float>(s, output, panel);
    int64_t row = 0;
    for (; row + TALL <= s.rows; row += TALL) pass<TALL>(s, output, row, panel);
    for (; row + 2 <= s.rows; row += 2) pass<2>(s, output, row, panel);
    for (; row < s.rows; row++) pass<1>(s, output, row, panel);
}

// The outputs of one of so many parts, of rows that are few or many.
static void all_rows_of(const Product& s, int64_t part, int64_t parts) {
    if (s.rows <= FEW) return linear(s, part, parts);
    int64_t panels = (s.outputs + ABREAST - 1) / ABREAST;
    std::unique_ptr<float[]> panel(new float[s.inputs * ABREAST]);
    for (int64_t i = panels * part / parts; i < panels * (part + 1) / parts; i++) many_rows(s, i * ABREAST, panel.get());
}
