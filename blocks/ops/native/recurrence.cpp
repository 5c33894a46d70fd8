// Decayed sums of outer products (linear_recurrence) and the delta rule, the state of each head carried step by step.
//
// T steps are taken at once, so that the state is read and written once for T of them: what they read of the state before
// them comes from T products with it, what they read of each other from a T x T matrix of scores. Decays within T steps
// are products of their factors; none is ever divided by.
//
// B batch, L steps, H heads, K and V widths of a key and a value; q, k and r may be shared by groups of heads.
#include "simd.h"

#include <cstdlib>
#include <deque>

constexpr int T = LANES == 16 ? 8 : 4;  // as many as leave the vectors of a tile in registers
#define EACH(t) _Pragma("GCC unroll 8") for (int t = 0; t < T; t++)
constexpr int MOST_KEYS = 512;
constexpr int64_t CACHE = 1 << 19;  // bytes of state that a task goes through time with
constexpr int ROW = MOST_KEYS + 16;  // a constant, so that addresses are; not a power of 2, so that rows do not share cache sets

enum Kind { NONE, PER_HEAD, PER_KEY, PER_VALUE };

// Whether a step's own decay lies before its read and behind its write, and whether it reads what it writes.
struct Order {
    int64_t before_read, behind_write, sees_itself;
};

struct Strided {  // (B, L, heads, width), neighbouring channels side by side
    const float* data;
    int64_t batch, step, head, heads;

    const float* at(int64_t b, int64_t t, int64_t h, int64_t H) const {
        return data + b * batch + t * step + h * heads / H * head;
    }
};

struct Shape {
    int64_t B, L, H, K, V;
    int64_t kind, reverse;
    Order order;
};

// What T steps do to one head. Rows of ROW, beyond the width of a key 0, beyond the end of the sequence as if not there.
struct Block {
    alignas(64) float q[T * ROW], r[T * ROW], k[T * ROW], decay[T * ROW], total[ROW];
    float seen[T][T], read[T][T], one[ROW], factor[T];  // factor: the decays where there is one per head

    Block() {
        for (float& value : one) value = 1;
    }
};

template <typename X> struct Products {  // of factors, in one of the orders; X is a float or a vector
    X start[T], end[T], total;

    template <typename Get> Products(Order order, X one, Get a) {
        X running = one;
        for (int t = 0; t < T; t++) {
            start[t] = order.before_read ? running * a(t) : running;
            running = running * a(t);
        }
        total = running;
        running = one;
        for (int t = T - 1; t >= 0; t--) {
            end[t] = order.behind_write ? running * a(t) : running;
            running = running * a(t);
        }
    }
};

// The factor by which what step j wrote shrinks between the reads of steps t - 1 and t.
template <typename X, typename Get> INLINE X between(Order order, int j, int t, X one, Get a) {
    if (order.before_read) return a(t);
    return t - 1 == j && !order.behind_write ? one : a(t - 1);
}

INLINE int64_t widths(int64_t count) { return (count + LANES - 1) / LANES; }

// scores[t][j] = sum over the keys of x_t, y_j and the decays between them.
template <bool PER_KEYS>
[[gnu::noinline]] static void damped(const float* __restrict x, const float* __restrict y, const Block& block, int64_t keys,
                                     Order order, float (*__restrict scores)[T]) {
    EACH(j) {
        Vec sums[T] = {};
        const float* decays[T] = {};
        for (int t = j + 1; t < T; t++)
            decays[t] = between(order, j, t, block.one, [&](int i) { return block.decay + i * ROW; });
        for (int64_t c = 0; c < keys; c += LANES) {
            Vec write = load(y + j * ROW + c);
            EACH(t) {
                if (PER_KEYS && t > j) write *= load(decays[t] + c);
                if (t >= j) sums[t] += load(x + t * ROW + c) * write;
            }
        }
        float factor = 1;
        EACH(t) {
            if (t > j) factor *= between(order, j, t, 1.f, [&](int i) { return block.factor[i]; });
            if (t >= j) scores[t][j] = sum(sums[t]) * factor;
        }
        if (!order.sees_itself) scores[j][j] = 0;
    }
}

static void score(const float* x, const Block& block, const Shape& s, Order order, float (*scores)[T]) {
    if (s.kind == PER_KEY)
        damped<true>(x, block.k, block, s.K, order, scores);
    else
        damped<false>(x, block.k, block, s.K, order, scores);
}

struct Start {
    template <typename X> X operator()(const Products<X>& p, int t) const { return p.start[t]; }
};
struct End {
    template <typename X> X operator()(const Products<X>& p, int t) const { return p.end[t]; }
};

// rows_t *= what `pick` takes of the products of the decays.
template <typename Pick>
[[gnu::noinline]] static void scale(float* rows, const Block& block, const Shape& s, Order order, Pick pick) {
    if (s.kind == PER_HEAD) {
        Products<float> products(order, 1.f, [&](int t) { return block.factor[t]; });
        for (int t = 0; t < T; t++)
            for (int64_t c = 0; c < s.K; c += LANES)
                store(rows + t * ROW + c, load(rows + t * ROW + c) * pick(products, t));
    }
    if (s.kind == PER_KEY)
        for (int64_t c = 0; c < s.K; c += LANES) {
            Products<Vec> products(order, all(1), [&](int t) { return load(block.decay + t * ROW + c); });
            for (int t = 0; t < T; t++) store(rows + t * ROW + c, load(rows + t * ROW + c) * pick(products, t));
        }
}

static void totals(Block& block, const Shape& s) {
    for (int64_t c = 0; c < s.K; c += LANES) {
        Vec product = all(1);
        for (int t = 0; t < T; t++) {
            if (s.kind == PER_KEY) product *= load(block.decay + t * ROW + c);
            if (s.kind == PER_HEAD) product *= block.factor[t];
        }
        store(block.total + c, product);
    }
}

// Passes over a tile of the state, K rows of LANES values `width` floats apart. Functions of their own, in which all that
// a row needs but the row itself stays in registers.

// What T steps read of the state before them, then the state after what they write.
[[gnu::noinline]] static void read_and_write(float* __restrict state, int64_t width, const Block* __restrict block,
                                             int64_t keys, Vec total, const Vec* writes, Vec* reads) {
    Vec y[T] = {}, w[T];
    EACH(t) w[t] = writes[t];
    for (int64_t c = 0; c < keys; c++, state += width) {
        Vec s = load(state);
        EACH(t) y[t] += block->q[t * ROW + c] * s;
        s *= total * block->total[c];
        EACH(t) s += block->k[t * ROW + c] * w[t];
        store(state, s);
    }
    EACH(t) reads[t] = y[t];
}

[[gnu::noinline]] static void read(const float* __restrict state, int64_t width, const float* __restrict rows,
                                   int64_t keys, Vec* reads) {
    Vec y[T] = {};
    for (int64_t c = 0; c < keys; c++, state += width) {
        Vec s = load(state);
        EACH(t) y[t] += rows[t * ROW + c] * s;
    }
    EACH(t) reads[t] = y[t];
}

// What T steps read of what they write themselves.
[[gnu::noinline]] static void read_written(const float (*scores)[T], const Vec* values, Vec* reads) {
    Vec y[T];
    EACH(t) y[t] = reads[t];
    EACH(j) {
        Vec written = values[j];
        EACH(t) {
            if (t >= j) y[t] += scores[t][j] * written;
        }
    }
    EACH(t) reads[t] = y[t];
}

[[gnu::noinline]] static void read_decayed(const float (*scores)[T], const Vec* values, Order order,
                                           const Vec* decay, Vec* reads) {
    for (int j = 0; j < T; j++) {
        Vec written = values[j];
        for (int t = j; t < T; t++) {
            if (t > j) written *= between(order, j, t, all(1), [&](int i) { return decay[i]; });
            reads[t] += scores[t][j] * written;
        }
    }
}

// The columns [from, to) of one head of one sample, held in memory of their own while the steps go by.
struct Columns {
    const Shape& s;
    int64_t b, h, from, to, width;
    float* state;

    Columns(const Shape& s, int64_t b, int64_t h, int64_t from, int64_t to)
        : s(s), b(b), h(h), from(from), to(to), width(widths(to - from) * LANES) {
        state = (float*)aligned_alloc(64, (s.K * width * sizeof(float) + 64) / 64 * 64);
    }
    ~Columns() { free(state); }

    void enter(const float* first) {
        memset(state, 0, s.K * width * sizeof(float));
        if (first)
            for (int64_t c = 0; c < s.K; c++)
                memcpy(state + c * width, first + ((b * s.H + h) * s.K + c) * s.V + from, (to - from) * sizeof(float));
    }
    void leave(float* last) {
        for (int64_t c = 0; c < s.K; c++)
            memcpy(last + ((b * s.H + h) * s.K + c) * s.V + from, state + c * width, (to - from) * sizeof(float));
    }
    int64_t step(int64_t done) const { return s.reverse ? s.L - 1 - done : done; }

    // Where step `done` of x is, or nothing where there is none.
    const float* at(const Strided& x, int64_t done) const {
        return x.data && done < s.L ? x.at(b, step(done), h, s.H) : nullptr;
    }
    // T steps of x, `count` wide, into rows of a block, which end in zeros.
    void gather(const Strided& x, int64_t done, int64_t count, float* rows, float other = 0) const {
        for (int t = 0; t < T; t++) {
            const float* from = at(x, done + t);
            for (int64_t c = 0; c < count; c += LANES)
                store(rows + t * ROW + c, from ? load(from + c, count - c) : all(other));
        }
    }
    // T steps of what there is one of per head.
    void gather_one(const Strided& x, int64_t done, float* out, float other) const {
        for (int t = 0; t < T; t++) {
            const float* from = at(x, done + t);
            out[t] = from ? *from : other;
        }
    }
    // The decays of T steps.
    void gather_decays(const Strided& a, int64_t done, Block& block) const {
        if (s.kind == PER_KEY) gather(a, done, s.K, block.decay, 1);
        if (s.kind == PER_HEAD)
            gather_one(a, done, block.factor, 1);
        else
            for (float& factor : block.factor) factor = 1;
    }
    // T steps of a tile of values.
    void values(const Strided& x, int64_t done, int64_t tile, float other, Vec* out) const {
        for (int t = 0; t < T; t++) {
            const float* from = at(x, done + t);
            out[t] = from ? load(from + tile, to - tile) : all(other);
        }
    }
    void put(float* o, int64_t done, int64_t tile, const Vec* from) const {
        for (int t = 0; t < T && done + t < s.L; t++)
            store(o + ((b * s.L + step(done + t)) * s.H + h) * s.V + tile, from[t], to - tile);
    }
};

// Every head of every sample, T steps at a time: `run(columns, done)`. The heads of a task go through time together, since
// their rows are neighbours in memory, as many of them as have their states in the cache; few heads are cut into columns.
template <typename Run>
static void each_part(const Shape& s, int threads, const float* first, float* last, Run run) {
    int64_t heads = s.B * s.H, tiles = widths(s.V);
    if (!heads || !tiles) return;  // nothing is to be written, and what follows divides by both
    int64_t parts = heads >= threads ? 1 : (threads + heads - 1) / heads;
    if (parts > tiles) parts = tiles;
    int64_t wide = (s.K ? s.K : 1) * tiles * LANES * sizeof(float);  // bytes of the state of a head, which may have no keys
    int64_t cached = CACHE / wide, even = (heads * parts + threads - 1) / threads;
    int64_t together = cached < 1 ? 1 : cached < even ? cached : even, pieces = heads * parts;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < pieces; begin += together) {
        NoDenormals guard;
        std::deque<Columns> task;
        for (int64_t piece = begin; piece < pieces && piece < begin + together; piece++) {
            int64_t head = piece / parts, part = piece % parts;
            int64_t from = tiles * part / parts * LANES, to = tiles * (part + 1) / parts * LANES;
            task.emplace_back(s, head / s.H, head % s.H, from, to < s.V ? to : s.V);
            task.back().enter(first);
        }
        for (int64_t done = 0; done < s.L; done += T)
            for (Columns& columns : task) run(columns, done);
        for (Columns& columns : task) columns.leave(last);
    }
}

EXPORT void linear_recurrence(const Shape* shape, const Strided* q, const Strided* k, const Strided* v, const Strided* a,
                              const float* first, float* o, float* last, int threads) {
    const Shape& s = *shape;
    each_part(s, threads, first, last, [&](Columns& columns, int64_t done) {
        static thread_local Block block;
        columns.gather(*q, done, s.K, block.q);
        columns.gather(*k, done, s.K, block.k);
        columns.gather_decays(*a, done, block);
        score(block.q, block, s, s.order, block.seen);
        scale(block.q, block, s, s.order, Start());
        scale(block.k, block, s, s.order, End());
        totals(block, s);
        for (int64_t tile = columns.from; tile < columns.to; tile += LANES) {
            float* state = columns.state + (tile - columns.from);
            Vec values[T], seen[T];
            columns.values(*v, done, tile, 0, values);
            if (s.kind != PER_VALUE) {
                read_and_write(state, columns.width, &block, s.K, all(1), values, seen);
                read_written(block.seen, values, seen);
            } else {
                Vec decay[T], writes[T];
                columns.values(*a, done, tile, 1, decay);
                Products<Vec> products(s.order, all(1), [&](int t) { return decay[t]; });
                for (int t = 0; t < T; t++) writes[t] = values[t] * products.end[t];
                read_and_write(state, columns.width, &block, s.K, products.total, writes, seen);
                for (int t = 0; t < T; t++) seen[t] *= products.start[t];
                read_decayed(block.seen, values, s.order, decay, seen);
            }
            columns.put(o, done, tile, seen);
        }
    });
}

// What T steps write in turn, each after it has read what the ones before it wrote: w_t = values_t + beta_t (reads_t + …).
[[gnu::noinline]] static void answer(const float (*scores)[T], const float* beta, Vec* values, const Vec* reads) {
    Vec w[T];
    EACH(t) {
        Vec read = reads[t];
        EACH(j) {
            if (j < t) read += scores[t][j] * w[j];
        }
        w[t] = values[t] + beta[t] * read;
    }
    EACH(t) values[t] = w[t];
}

// w_t = gain_t v_t + beta_t r_t S and S_t = diag(a_t) S_{t-1} + k_t w_t, S before or after the decay; o_t = q_t S_t.
// The w_t are given where there is a `w`.
EXPORT void delta_rule(const Shape* shape, const Strided* q, const Strided* r, const Strided* k, const Strided* v,
                       const Strided* gain, const Strided* beta, const Strided* a, const float* first, float* o, float* w,
                       float* last, int threads) {
    const Shape& s = *shape;
    const Order reading = s.order, showing = {1, 0, 1};
    each_part(s, threads, first, last, [&](Columns& columns, int64_t done) {
        static thread_local Block block;
        float gains[T], betas[T];
        columns.gather(*q, done, s.K, block.q);
        columns.gather(*r, done, s.K, block.r);
        columns.gather(*k, done, s.K, block.k);
        columns.gather_one(*gain, done, gains, 1);
        columns.gather_one(*beta, done, betas, 0);
        columns.gather_decays(*a, done, block);
        score(block.q, block, s, showing, block.seen);
        score(block.r, block, s, reading, block.read);
        scale(block.q, block, s, showing, Start());
        scale(block.r, block, s, reading, Start());
        scale(block.k, block, s, showing, End());
        totals(block, s);
        for (int64_t tile = columns.from; tile < columns.to; tile += LANES) {
            float* state = columns.state + (tile - columns.from);
            Vec missed[T], seen[T], written[T];
            columns.values(*v, done, tile, 0, written);
            for (int t = 0; t < T; t++) written[t] *= gains[t];
            read(state, columns.width, block.r, s.K, missed);
            answer(block.read, betas, written, missed);
            read_and_write(state, columns.width, &block, s.K, all(1), written, seen);
            read_written(block.seen, written, seen);
            columns.put(o, done, tile, seen);
            if (w) columns.put(w, done, tile, written);
        }
    });
}
