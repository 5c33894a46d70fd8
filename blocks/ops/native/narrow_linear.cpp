// Linear maps with weights that are narrower than the numbers they are multiplied with.
#include "linear.h"

#include <memory>

EXPORT void few_rows_of(const Layer* layer, const float* x, float* y, int64_t rows, int64_t threads) {
    Product s{*layer, x, y, rows, layer->inputs, layer->outputs};
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t part = 0; part < threads; part++) linear(s, part, threads);
}

EXPORT void many_rows_of(const Layer* layer, const float* x, float* y, int64_t rows, int64_t threads) {
    Product s{*layer, x, y, rows, layer->inputs, layer->outputs};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::unique_ptr<float[]> panel(new float[s.inputs * ABREAST]);
#pragma omp for schedule(static)
        for (int64_t output = 0; output < s.outputs; output += ABREAST) many_rows(s, output, panel.get());
    }
}
