// One step of a sequence as a list of calls: norms, products, activations, attention and scans over numbers that lie in one room. The same
// without attention and scans for whole prompts, whose tokens are rows.
//
// Threads go through the list together and wait for each other behind each call. What a block keeps of the tokens so far is read from
// memory that the caller names at every step; nothing that was given is written over.
#include "linear.h"

#include <cmath>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

// `count` groups of `size` numbers in each row, `step` apart; row r begins at room + at * rows + r * row + first.
struct Place {
    int64_t at, row, first, step;
};

enum Kind { NORM, LINEAR, ACT, MULTIPLY, ADD, SCALE, ROTATE, ATTEND, CONVOLVE, SCAN };
enum Act { SILU, SIGMOID, RELU, SQUARED_RELU, TANH, GELU, GELU_TANH, TIMES, CAP };

struct Call {
    int64_t kind;
    Place x, other, third, y;
    int64_t count, size;  // groups, and numbers of each, of what is written
    int64_t kept;         // where in `kept` stands what was kept of the past
    int64_t which, shared;
    double number, second;
    const void *weight, *bias, *rates;
};

struct Step {
    float* room;
    const int64_t* kept;
    int64_t rows, part, parts;

    float* at(const Place& p, int64_t row, int64_t group = 0) const {
        return room + p.at * rows + row * p.row + p.first + group * p.step;
    }
    const float* floats(const Call& c, int64_t index) const { return (const float*)kept[c.kept + index]; }
    float* written(const Call& c, int64_t index) const { return (float*)kept[c.kept + index]; }

    // work(row, group) for the groups of all rows that are this thread's.
    template <typename Work>
    __attribute__((always_inline)) void groups(const Call& c, Work work) const {
        int64_t all = rows * c.count;
        for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++) work(i / c.count, i % c.count);
    }

    // work(row, group, first, lanes) for each vector of numbers that is this thread's.
    template <typename Work>
    __attribute__((always_inline)) void vectors(const Call& c, Work work) const {
        int64_t each = (c.size + LANES - 1) / LANES, all = rows * c.count * each;
        for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++) {
            int64_t first = i % each * LANES, left = c.size - first;
            work(i / each / c.count, i / each % c.count, first, left < LANES ? left : LANES);
        }
    }
};

template <typename Function>
INLINE Vec each(Vec x, Function function) {
    float numbers[LANES];
    memcpy(numbers, &x, sizeof(Vec));
    for (float& number : numbers) number = function(number);
    return load(numbers);
}

INLINE Vec acted(const Call& c, Vec x) {
    float number = c.number;
    switch (c.which) {
        case SILU: return x * sigmoid(x);
        case SIGMOID: return sigmoid(x);
        case RELU: return larger(Vec{}, x);
        case SQUARED_RELU: x = larger(Vec{}, x); return x * x;
        case TANH: return each(x, [](float v) { return std::tanh(v); });
        case GELU: return each(x, [](float v) { return 0.5f * v * (1.f + std::erf(v * 0.70710678f)); });
        case GELU_TANH:
            return each(x, [](float v) { return 0.5f * v * (1.f + std::tanh(0.79788456f * (v + 0.044715f * v * v * v))); });
        case TIMES: return x * number;
        default: return each(x, [number](float v) { return number * std::tanh(v / number); });
    }
}

// y = weight (x - mean) / sqrt(mean (x - mean)^2 + eps) + bias for each group; with `which` 0 the mean stays where it is.
static void norm(const Step& s, const Call& c) {
    auto weight = (const float*)c.weight, bias = (const float*)c.bias;
    s.groups(c, [&](int64_t row, int64_t group) {
        const float* x = s.at(c.x, row, group);
        float* y = s.at(c.y, row, group);
        auto total = [&](auto term) {
            Vec sums = {};
            for (int64_t i = 0; i < c.size; i += LANES) sums += term(load(x + i, c.size - i), c.size - i);
            return sum(sums);
        };
        float mean = c.which ? total([](Vec v, int64_t) { return v; }) / c.size : 0.f;
        float square = total([&](Vec v, int64_t lanes) {
            v -= mean;
            if (lanes < LANES) v = load((float*)&v, lanes);  // what lies beyond the group is no deviation
            return v * v;
        });
        float scale = 1.f / std::sqrt(square / c.size + (float)c.number);
        for (int64_t i = 0; i < c.size; i += LANES) {
            int64_t left = c.size - i, lanes = left < LANES ? left : LANES;
            Vec v = (load(x + i, lanes) - mean) * scale;
            if (weight) v *= load(weight + i, lanes);
            if (bias) v += load(bias + i, lanes);
            store(y + i, v, lanes);
        }
    });
}

static void product(const Step& s, const Call& c) {
    all_rows_of({*(const Layer*)c.weight, s.at(c.x, 0), s.at(c.y, 0), s.rows, c.x.row, c.y.row}, s.part, s.parts);
}

template <typename Function>
INLINE void pointwise(const Step& s, const Call& c, Function function) {
    s.vectors(c, [&](int64_t row, int64_t group, int64_t first, int64_t lanes) {
        Vec x = load(s.at(c.x, row, group) + first, lanes);
        store(s.at(c.y, row, group) + first, function(x, row, group, first, lanes), lanes);
    });
}

// Pairs of the first `shared` numbers of each group, turned by the angles of its row: halves, or with `which` neighbours.
static void rotate(const Step& s, const Call& c) {
    int64_t turned = c.shared, pairs = turned / 2;
    s.groups(c, [&](int64_t row, int64_t group) {
        const float* x = s.at(c.x, row, group);
        float* y = s.at(c.y, row, group);
        const float *cos = s.floats(c, 0) + row * pairs, *sin = s.floats(c, 1) + row * pairs;
        for (int64_t i = 0; i < pairs; i++) {
            int64_t left = c.which ? 2 * i : i, right = c.which ? 2 * i + 1 : i + pairs;
            float a = x[left], b = x[right];
            y[left] = a * cos[i] - b * sin[i];
            y[right] = b * cos[i] + a * sin[i];
        }
        if (turned < c.size) memcpy(y + turned, x + turned, (c.size - turned) * sizeof(float));
    });
}

// softmax(s) v over the keys and values that are kept, of which there are `held`, and the new ones, which are put behind them.
static void attend(const Step& s, const Call& c) {
    float *keys = s.written(c, 2), *values = s.written(c, 3);
    int64_t sample = s.kept[c.kept + 4], held = s.kept[c.kept + 5], together = c.count / c.shared;
    int64_t position = together * c.size;
    float scale = c.number, cap = c.second;
    std::vector<float> scores(held + LANES);
    s.groups(c, [&](int64_t row, int64_t head) {
        int64_t group = head / c.shared;
        float *k = keys + row * sample + group * c.size, *v = values + row * sample + group * c.size;
        const float *q = s.at(c.x, row, head), *new_k = s.at(c.other, row, group), *new_v = s.at(c.third, row, group);
        float* y = s.at(c.y, row, head);
        float most = -INFINITY;
        for (int64_t m = 0; m <= held; m++) {
            const float* key = m < held ? k + m * position : new_k;
            Vec sums = {};
            for (int64_t i = 0; i < c.size; i += LANES) sums += load(q + i, c.size - i) * load(key + i, c.size - i);
            float score = scale * sum(sums);
            if (cap) score = cap * std::tanh(score / cap);
            scores[m] = score;
            most = score > most ? score : most;
        }
        Vec total = {};
        for (int64_t m = 0; m <= held; m += LANES) {
            Vec weights = exp_of(load(&scores[m], held + 1 - m) - most);
            store(&scores[m], weights, held + 1 - m);
            total += load(&scores[m], held + 1 - m);
        }
        float share = 1.f / sum(total);
        for (int64_t i = 0; i < c.size; i += LANES) {
            Vec sums = {};
            for (int64_t m = 0; m <= held; m++) sums += scores[m] * load((m < held ? v + m * position : new_v) + i, c.size - i);
            store(y + i, sums * share, c.size - i);
        }
        if (head % c.shared == 0) {
            memcpy(k + held * position, new_k, c.size * sizeof(float));
            memcpy(v + held * position, new_v, c.size * sizeof(float));
        }
    });
}

// y = act(bias + w_k x + the `shared` = k - 1 inputs before it), per channel, and the last k - 1 inputs then.
static void convolve(const Step& s, const Call& c) {
    auto weight = (const float*)c.weight, bias = (const float*)c.bias;
    int64_t taps = c.shared;
    auto before = s.floats(c, 0);
    float* after = s.written(c, 1);
    s.vectors(c, [&](int64_t row, int64_t, int64_t first, int64_t lanes) {
        const float* x = s.at(c.x, row) + first;
        float sums[LANES];
        for (int64_t lane = 0; lane < lanes; lane++) {
            int64_t channel = first + lane;
            const float *w = weight + channel * (taps + 1), *old = before + (row * c.size + channel) * taps;
            float* next = after + (row * c.size + channel) * taps;
            float y = bias ? bias[channel] : 0.f;
            for (int64_t i = 0; i < taps; i++) y += w[i] * old[i];
            sums[lane] = y + w[taps] * x[lane];
            for (int64_t i = 1; i < taps; i++) next[i - 1] = old[i];
            if (taps) next[taps - 1] = x[lane];
        }
        Vec y = load(sums, lanes);
        store(s.at(c.y, row) + first, c.which ? y * sigmoid(y) : y, lanes);
    });
}

// h <- 2^(d rates) h + d x B and y = C h + weight x of each channel, with d = softplus(step); B and C lie side by side, of `shared` numbers.
static void scan(const Step& s, const Call& c) {
    NoDenormals none;
    auto skip = (const float*)c.weight, rates = (const float*)c.rates;
    auto before = s.floats(c, 0);
    float* after = s.written(c, 1);
    int64_t states = c.shared;
    s.vectors(c, [&](int64_t row, int64_t, int64_t first, int64_t lanes) {
        const float *B = s.at(c.third, row), *C = B + states, *x = s.at(c.x, row) + first;
        float steps[LANES], y[LANES];
        store(steps, softplus(load(s.at(c.other, row) + first, lanes)));
        for (int64_t lane = 0; lane < lanes; lane++) {
            int64_t channel = first + lane, at = (row * c.size + channel) * states;
            Vec sums = {};
            for (int64_t i = 0; i < states; i += LANES) {
                int64_t left = states - i, some = left < LANES ? left : LANES;
                Vec decay = exp2_of(steps[lane] * load(rates + channel * states + i, some));
                Vec h = decay * load(before + at + i, some) + steps[lane] * x[lane] * load(B + i, some);
                store(after + at + i, h, some);
                sums += h * load(C + i, some);
            }
            y[lane] = sum(sums) + skip[channel] * x[lane];
        }
        store(s.at(c.y, row) + first, load(y, lanes), lanes);
    });
}

static void run(const Step& s, const Call& c) {
    switch (c.kind) {
        case NORM: return norm(s, c);
        case LINEAR: return product(s, c);
        case ACT: return pointwise(s, c, [&](Vec x, int64_t, int64_t, int64_t, int64_t) { return acted(c, x); });
        case MULTIPLY:
            return pointwise(s, c, [&](Vec x, int64_t row, int64_t group, int64_t first, int64_t lanes) {
                return x * load(s.at(c.other, row, group) + first, lanes);
            });
        case ADD:
            return pointwise(s, c, [&](Vec x, int64_t row, int64_t group, int64_t first, int64_t lanes) {
                return x + load(s.at(c.other, row, group) + first, lanes);
            });
        case SCALE:
            return pointwise(s, c, [&](Vec x, int64_t, int64_t group, int64_t first, int64_t lanes) {
                return x * load((const float*)c.weight + group * c.size + first, lanes);
            });
        case ROTATE: return rotate(s, c);
        case ATTEND: return attend(s, c);
        case CONVOLVE: return convolve(s, c);
        case SCAN: return scan(s, c);
    }
}

EXPORT void run_step(const Call* calls, int64_t count, float* room, const int64_t* kept, int64_t rows, int64_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Step s{room, kept, rows, 0, 1};
#ifdef _OPENMP
        s.part = omp_get_thread_num();
        s.parts = omp_get_num_threads();
#endif
        for (int64_t i = 0; i < count; i++) {
            run(s, calls[i]);
#pragma omp barrier
        }
    }
}
