// Linear maps with weights that are narrower than the numbers they are multiplied with.
#include "linear.h"

EXPORT void linear_layer(const Layer* layer, const float* x, float* y, int64_t rows, int64_t threads) {
    Product s{*layer, x, y, rows, layer->inputs, layer->outputs};
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t part = 0; part < threads; part++) all_rows_of(s, part, threads);
}
