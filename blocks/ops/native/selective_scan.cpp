// S6: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = (C_t h_t + D u_t) silu(z_t), and its gradients.
//
// Rows of u, delta, z and y are steps; a segment is a run of rows with a state of its own. G groups of K channels share
// B and C; states and A lie as (G, N, K), so that a vector holds neighbouring channels and nothing is summed across it.
// Time goes in blocks of STEPS: a block's rows are read once, while the states of all channels wait in cache. The
// gradient keeps the state before each block, runs the block again, and adds up over time backwards.
// While tiles of channels are computed, the rows of those after them are asked of memory, a few at a time.
#include "simd.h"

#include <cstdlib>
#include <memory>

constexpr int STEPS = 16;  // as STEPS in selective_scan/steps.py
constexpr int TOGETHER = 4;  // states of a channel whose chains run side by side
constexpr int ABREAST = 2;   // tiles that a gradient takes at once: sums over them stay in the level-1 cache
constexpr float LN2 = 0.6931471805599453f;

struct Scan {
    const float *u, *delta, *z, *A, *B, *C, *D, *bias;  // A times log2(e); z, D, bias may be missing
    const int64_t *borders, *blocks;                    // rows where segments start and end; first kept block of each
    float *y, *state, *starts;                          // state is read and written; starts may be missing
    const float* grad_y;
    float *grad_u, *grad_delta, *grad_z, *grad_A, *grad_B, *grad_C, *grad_D, *grad_bias, *grad_state;
    int64_t segments, groups, state_dim, channels, parts, rows;  // channels: K of a group; parts of them run in parallel
    int64_t u_row, delta_row, z_row, B_row, B_group, C_row, C_group, grad_y_row;  // strides
    int64_t softplus, threads;
};

// A part of the channels of one group in one segment: what one thread works on.
struct Part {
    int64_t segment, group, index, begin, end;
};

static Part part_of(const Scan& s, int64_t item) {
    int64_t index = item % s.parts, tiles = (s.channels + LANES - 1) / LANES;
    int64_t begin = index * tiles / s.parts * LANES, end = (index + 1) * tiles / s.parts * LANES;
    return {item / s.parts / s.groups, item / s.parts % s.groups, index, begin, end < s.channels ? end : s.channels};
}

// What a tile, a vector of channels, needs in a block: values by step.
struct Tile {
    Vec u[STEPS], raw[STEPS], delta[STEPS], input[STEPS], y[STEPS];

    INLINE void read(const Scan& s, Tile& tile, int64_t row, int steps, int64_t channel, int64_t lanes) {
        Vec bias = s.bias ? load(s.bias + channel, lanes) : Vec{};
        Vec D = s.D ? load(s.D + channel, lanes) : Vec{};
        for (int t = 0; t < steps; t++) {
            tile.u[t] = load(s.u + (row + t) * s.u_row + channel, lanes);
            tile.raw[t] = load(s.delta + (row + t) * s.delta_row + channel, lanes) + bias;
            tile.delta[t] = s.softplus ? softplus(tile.raw[t]) : tile.raw[t];
            tile.input[t] = tile.delta[t] * tile.u[t];
            tile.y[t] = D * tile.u[t];
        }
    }
};

// The rows and the first channel that come after a tile: beside it, or in another block.
struct Next {
    int64_t row, channel;
};

INLINE Next next_of(const Part& part, int64_t channels, int64_t after, int64_t row, int64_t other_row) {
    bool beside = after < part.end;
    return {beside ? row : other_row, part.group * channels + (beside ? after : part.begin)};
}

// M states of each channel of a tile through a block; adds C h to y.
template <int M>
INLINE void advance(const Scan& s, Tile& tile, const float* A, const float* B, const float* C, float* state, int steps,
                    int64_t lanes) {
    Vec rate[M], h[M];
    for (int i = 0; i < M; i++) {
        rate[i] = load(A + i * s.channels, lanes);
        h[i] = load(state + i * s.channels, lanes);
    }
    for (int t = 0; t < steps; t++) {
        Vec delta = tile.delta[t], input = tile.input[t], y = tile.y[t];
        for (int i = 0; i < M; i++) {
            h[i] = exp2_of(delta * rate[i]) * h[i] + input * B[t * s.B_row + i];
            y += h[i] * C[t * s.C_row + i];
        }
        tile.y[t] = y;
    }
    for (int i = 0; i < M; i++) store(state + i * s.channels, h[i], lanes);
}

static void run(const Scan& s, const Part& part) {
    int64_t N = s.state_dim, K = s.channels, size = N * K;
    const float* A = s.A + part.group * size;
    float* state = s.state + (part.segment * s.groups + part.group) * size;
    int64_t block = s.blocks ? s.blocks[part.segment] : 0;
    for (int64_t row = s.borders[part.segment]; row < s.borders[part.segment + 1]; row += STEPS, block++) {
        int64_t left = s.borders[part.segment + 1] - row;
        int steps = left < STEPS ? left : STEPS;
        const float* B = s.B + row * s.B_row + part.group * s.B_group;
        const float* C = s.C + row * s.C_row + part.group * s.C_group;
        if (s.starts)
            for (int64_t n = 0; n < N; n++)
                memcpy(s.starts + (block * s.groups + part.group) * size + n * K + part.begin,
                       state + n * K + part.begin, (part.end - part.begin) * sizeof(float));
        for (int64_t k = part.begin; k < part.end; k += LANES) {
            int64_t lanes = part.end - k < LANES ? part.end - k : LANES, channel = part.group * K + k, n = 0;
            Tile tile;
            Next next = next_of(part, K, k + LANES, row, row + STEPS);
            Tile::read(s, tile, row, steps, channel, lanes);
            auto through = [&](auto width) {
                constexpr int M = decltype(width)::value;
                for (int64_t t = n * STEPS / N; t < (n + M) * STEPS / N; t++) {
                    will_read(s.u + (next.row + t) * s.u_row + next.channel);
                    will_read(s.delta + (next.row + t) * s.delta_row + next.channel);
                    if (s.z) will_read(s.z + (next.row + t) * s.z_row + next.channel);
                    will_write(s.y + (next.row + t) * s.groups * K + next.channel);
                }
                advance<M>(s, tile, A + n * K + k, B + n, C + n, state + n * K + k, steps, lanes);
                n += M;
            };
            while (n + TOGETHER <= N) through(std::integral_constant<int, TOGETHER>{});
            while (n < N) through(std::integral_constant<int, 1>{});
            for (int t = 0; t < steps; t++) {
                Vec y = tile.y[t];
                if (s.z) {
                    Vec z = load(s.z + (row + t) * s.z_row + channel, lanes);
                    y *= z * sigmoid(z);
                }
                store(s.y + (row + t) * s.groups * K + channel, y, lanes);
            }
        }
    }
}

// Gradients of a tile by step: of C h + D u, of delta_t u_t, and of the exponent's delta_t in units of ln 2.
struct TileGrad {
    Vec y[STEPS], input[STEPS], delta[STEPS];
};

// Gradients of B and C of a block, one vector of channels each, added up over tiles.
struct Sums {
    Vec *B, *C;  // (STEPS, N)
};

template <int M>
INLINE void retreat(const Scan& s, Tile& tile, TileGrad& grad, const float* A, const float* B, const float* C,
                    const float* start, float* grad_A, float* grad_state, Vec* sum_B, Vec* sum_C, int steps,
                    int64_t lanes) {
    Vec rate[M], g[M], grad_rate[M], decay[STEPS][M], h[STEPS + 1][M];
    for (int i = 0; i < M; i++) {
        rate[i] = load(A + i * s.channels, lanes);
        h[0][i] = load(start + i * s.channels, lanes);
        g[i] = load(grad_state + i * s.channels, lanes);
        grad_rate[i] = load(grad_A + i * s.channels, lanes);
    }
    for (int t = 0; t < steps; t++)
        for (int i = 0; i < M; i++) {
            decay[t][i] = exp2_of(tile.delta[t] * rate[i]);
            h[t + 1][i] = decay[t][i] * h[t][i] + tile.input[t] * B[t * s.B_row + i];
            if (s.z) tile.y[t] += h[t + 1][i] * C[t * s.C_row + i];
        }
    for (int t = steps - 1; t >= 0; t--) {
        Vec grad_input = grad.input[t], grad_delta = grad.delta[t], grad_y = grad.y[t];
        for (int i = 0; i < M; i++) {
            g[i] += grad_y * C[t * s.C_row + i];
            sum_C[t * s.state_dim + i] += grad_y * h[t + 1][i];
            sum_B[t * s.state_dim + i] += tile.input[t] * g[i];
            grad_input += g[i] * B[t * s.B_row + i];
            g[i] *= decay[t][i];
            Vec exponent = g[i] * h[t][i];
            grad_delta += exponent * rate[i];
            grad_rate[i] += exponent * tile.delta[t];
        }
        grad.input[t] = grad_input;
        grad.delta[t] = grad_delta;
    }
    for (int i = 0; i < M; i++) {
        store(grad_state + i * s.channels, g[i], lanes);
        store(grad_A + i * s.channels, grad_rate[i], lanes);
    }
}

INLINE void write_gradients(const Scan& s, const Part& part, Tile& tile, TileGrad& grad, int64_t row, int steps,
                            int64_t channel, int64_t lanes) {
    int64_t width = s.groups * s.channels, own = part.segment * width + channel;
    Vec D = s.D ? load(s.D + channel, lanes) : Vec{};
    Vec grad_D = s.D ? load(s.grad_D + own, lanes) : Vec{}, grad_bias = s.bias ? load(s.grad_bias + own, lanes) : Vec{};
    for (int t = 0; t < steps; t++) {
        Vec grad_delta = grad.delta[t] * LN2 + grad.input[t] * tile.u[t];
        if (s.softplus) grad_delta *= sigmoid(tile.raw[t]);
        grad_bias += grad_delta;
        grad_D += grad.y[t] * tile.u[t];
        int64_t at = (row + t) * width + channel;
        store(s.grad_u + at, grad.input[t] * tile.delta[t] + grad.y[t] * D, lanes);
        store(s.grad_delta + at, grad_delta, lanes);
        if (s.z) {
            Vec z = load(s.z + (row + t) * s.z_row + channel, lanes), open = sigmoid(z);
            Vec grad_y = load(s.grad_y + (row + t) * s.grad_y_row + channel, lanes);
            store(s.grad_z + at, grad_y * tile.y[t] * open * (1.f + z * (1.f - open)), lanes);
        }
    }
    if (s.D) store(s.grad_D + own, grad_D, lanes);
    if (s.bias) store(s.grad_bias + own, grad_bias, lanes);
}

INLINE void read_gradients(const Scan& s, TileGrad& grad, int64_t row, int steps, int64_t channel, int64_t lanes) {
    for (int t = 0; t < steps; t++) {
        grad.y[t] = load(s.grad_y + (row + t) * s.grad_y_row + channel, lanes);
        if (s.z) {
            Vec z = load(s.z + (row + t) * s.z_row + channel, lanes);
            grad.y[t] *= z * sigmoid(z);
        }
        grad.input[t] = grad.delta[t] = Vec{};
    }
}

INLINE void will_need_back(const Scan& s, int64_t row, int64_t channel) {
    int64_t at = row * s.groups * s.channels + channel;
    will_read(s.u + row * s.u_row + channel);
    will_read(s.delta + row * s.delta_row + channel);
    will_read(s.grad_y + row * s.grad_y_row + channel);
    will_write(s.grad_u + at);
    will_write(s.grad_delta + at);
    if (s.z) {
        will_read(s.z + row * s.z_row + channel);
        will_write(s.grad_z + at);
    }
}

// Tiles from channel `k` of a part on, up to ABREAST, back through a block. `start`: states before it, of all channels.
static void run_back_tiles(const Scan& s, const Part& part, Sums sums, const float* start, int64_t row, int steps,
                           int64_t k) {
    int64_t N = s.state_dim, K = s.channels, own = (part.segment * s.groups + part.group) * N * K, n = 0;
    const float* B = s.B + row * s.B_row + part.group * s.B_group;
    const float* C = s.C + row * s.C_row + part.group * s.C_group;
    Tile tiles[ABREAST];
    TileGrad grads[ABREAST];
    int64_t lanes[ABREAST], count = 0;
    for (int64_t left = part.end - k; left > 0 && count < ABREAST; left -= LANES, count++) {
        lanes[count] = left < LANES ? left : LANES;
        int64_t channel = part.group * K + k + count * LANES;
        Tile::read(s, tiles[count], row, steps, channel, lanes[count]);
        read_gradients(s, grads[count], row, steps, channel, lanes[count]);
    }
    Next next = next_of(part, K, k + ABREAST * LANES, row, row - STEPS);
    auto through = [&](auto width) {
        constexpr int M = decltype(width)::value;
        for (int64_t i = 0, at = n * K + k; i < count; i++, at += LANES) {
            for (int64_t t = n * STEPS / N; t < (n + M) * STEPS / N; t++)
                will_need_back(s, next.row + t, next.channel + i * LANES);
            for (int m = 0; m < M; m++) will_read(start + at + m * K + ABREAST * LANES);
            retreat<M>(s, tiles[i], grads[i], s.A + part.group * N * K + at, B + n, C + n, start + at,
                       s.grad_A + own + at, s.grad_state + own + at, sums.B + n, sums.C + n, steps, lanes[i]);
        }
        n += M;
    };
    while (n + TOGETHER <= N) through(std::integral_constant<int, TOGETHER>{});
    while (n < N) through(std::integral_constant<int, 1>{});
    for (int64_t i = 0; i < count; i++)
        write_gradients(s, part, tiles[i], grads[i], row, steps, part.group * K + k + i * LANES, lanes[i]);
}

static void run_back(const Scan& s, const Part& part, Sums sums) {
    int64_t N = s.state_dim, first = s.borders[part.segment];
    int64_t blocks = (s.borders[part.segment + 1] - first + STEPS - 1) / STEPS;
    for (int64_t index = blocks - 1; index >= 0; index--) {
        int64_t row = first + index * STEPS, left = s.borders[part.segment + 1] - row;
        int steps = left < STEPS ? left : STEPS;
        const float* start = s.starts + ((s.blocks[part.segment] + index) * s.groups + part.group) * N * s.channels;
        memset(sums.B, 0, STEPS * N * sizeof(Vec));
        memset(sums.C, 0, STEPS * N * sizeof(Vec));
        for (int64_t k = part.begin; k < part.end; k += ABREAST * LANES)
            run_back_tiles(s, part, sums, start, row, steps, k);
        for (int t = 0; t < steps; t++)
            for (int64_t n = 0; n < N; n++) {
                int64_t at = ((part.index * s.rows + row + t) * s.groups + part.group) * N + n;
                s.grad_B[at] = sum(sums.B[t * N + n]);
                s.grad_C[at] = sum(sums.C[t * N + n]);
            }
    }
}

EXPORT void selective_scan(const Scan* call) {
    const Scan& s = *call;
    int64_t items = s.segments * s.groups * s.parts;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        NoDenormals off;
        run(s, part_of(s, item));
    }
}

EXPORT void selective_scan_backward(const Scan* call) {
    const Scan& s = *call;
    int64_t items = s.segments * s.groups * s.parts, count = STEPS * s.state_dim;
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        NoDenormals off;
        Vec* memory = (Vec*)aligned_alloc(sizeof(Vec), 2 * count * sizeof(Vec));
        run_back(s, part_of(s, item), {memory, memory + count});
        free(memory);
    }
}
