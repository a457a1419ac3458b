// The forward pass of a transformer encoder over a packed batch: pre-norm, gated and rotary (ModernBERT), or post-norm
// with a position table (BERT).
//
// A layer has two phases, each shared between threads and ended by a barrier: blocks of rows up to q, k and v; then
// attention, by pair and head. A block goes through the output projection, the MLP and the next layer's q, k and v
// without a break, so that its data stays in the core's own cache. The residual stream is float32.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "attention.hpp"

struct Norm {
    const float* weight;  // null: no norm
    const float* bias;
};

struct Layer {
    Norm attention_norm, mlp_norm;
    Linear qkv, attention_out, mlp_in, mlp_out;
    int64_t window;      // how far a token attends to each side; negative: to the whole pair
    const float* rotary; // [positions][2][32] cos and sin; null: no rotary positions
};

struct Model {
    const float* word_embeddings;      // [vocabulary][hidden]
    const float* position_embeddings;  // [positions][hidden] or null
    const float* type_embeddings;      // [types][hidden] or null
    Norm embedding_norm, final_norm;
    const Layer* layers;
    int64_t hidden, layer_count, head_width, pre_norm, gated;
    float eps;
};

// bounds [pairs + 1]: each pair's first token and, last, the end of the batch. token_ids, positions (in the pair),
// position_ids (rows of the position table), type_ids: [tokens].
struct Batch {
    const int32_t *bounds, *token_ids, *positions, *position_ids, *type_ids;
    const Item* items;
    int64_t tokens, pairs, item_count;
};

// Buffers of at least `tokens` rows. hidden: [tokens][hidden]; attended: [tokens][hidden]. qkv: [tokens][3 hidden],
// and SPARE_ROWS more (encoder.py), which may be read.
struct Workspace {
    float* hidden;
    void *qkv, *attended;
};

inline void norm(float* row, const Norm& n, int width, float eps, auto&& put) {
    Vec sum = all(0.f);
    for (int c = 0; c < width; c += LANES) sum = _mm512_add_ps(sum, load(row + c));
    Vec mean = all(_mm512_reduce_add_ps(sum) / width), squares = all(0.f);
    for (int c = 0; c < width; c += LANES) {
        Vec off = _mm512_sub_ps(load(row + c), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    Vec rate = all(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps));
    for (int c = 0; c < width; c += LANES) {
        Vec y = _mm512_mul_ps(_mm512_mul_ps(_mm512_sub_ps(load(row + c), mean), rate), load(n.weight + c));
        put(c, n.bias ? _mm512_add_ps(y, load(n.bias + c)) : y);
    }
}

// T: element type of the matrix products with weights; E: of attention; D: width of a head.
template <class T, class E, int D>
struct Encoder {
    using Element = typename E::Element;
    const Model& model;
    const Batch& batch;
    const Workspace& workspace;
    const int hidden = model.hidden;
    Element* const qkv = static_cast<Element*>(workspace.qkv);
    Element* const attended = static_cast<Element*>(workspace.attended);

    // One per thread.
    struct Scratch {
        Rows<T> rows, inner;
        HeadAttention<E, D> attention;
    };

    // Writes hidden states, float32 [hidden], to `out`: of each pair's first token if `pooled_only`, else of all tokens.
    void run(bool pooled_only, int threads, float* out) {
#pragma omp parallel num_threads(threads)
        {
            [[maybe_unused]] TileRegisters registers;
            Scratch scratch;
            const int last = model.layer_count - 1;
            const int blocks = (batch.tokens + BLOCK - 1) / BLOCK;
#pragma omp for schedule(dynamic)
            for (int b = 0; b < blocks; b++) {
                int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                embed(first, rows);
                project(model.layers[0], first, rows, scratch, last == 0 && pooled_only);
            }
            for (int l = 0; l < last; l++) {
#pragma omp for schedule(dynamic)
                for (int i = 0; i < batch.item_count; i++) attend(model.layers[l], batch.items[i], scratch);
#pragma omp for schedule(dynamic)
                for (int b = 0; b < blocks; b++) {
                    int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                    finish(model.layers[l], workspace.hidden + (long)first * hidden, attended + (long)first * hidden,
                           rows, scratch);
                    project(model.layers[l + 1], first, rows, scratch, l + 1 == last && pooled_only);
                }
            }
            // The last layer is computed for the rows that are written out.
            if (pooled_only) {
                int heads = hidden / D;
#pragma omp for schedule(dynamic, 4)
                for (int i = 0; i < batch.pairs * heads; i++) {
                    int pair = i / heads;
                    attend(model.layers[last], Item{pair, i % heads, 0, 1}, scratch);
                }
                int groups = (batch.pairs + BLOCK - 1) / BLOCK;
#pragma omp for schedule(dynamic)
                for (int g = 0; g < groups; g++) {
                    int first = g * BLOCK, rows = std::min<int>(BLOCK, batch.pairs - first);
                    std::vector<Element> attended_rows((size_t)rows * hidden);
                    for (int r = 0; r < rows; r++) {
                        long token = batch.bounds[first + r];
                        std::memcpy(out + (long)(first + r) * hidden, workspace.hidden + token * hidden,
                                    hidden * sizeof(float));
                        std::memcpy(&attended_rows[(size_t)r * hidden], attended + token * hidden,
                                    hidden * sizeof(Element));
                    }
                    finish_last(model.layers[last], out + (long)first * hidden, attended_rows.data(), rows, scratch);
                }
            } else {
#pragma omp for schedule(dynamic)
                for (int i = 0; i < batch.item_count; i++) attend(model.layers[last], batch.items[i], scratch);
#pragma omp for schedule(dynamic)
                for (int b = 0; b < blocks; b++) {
                    int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                    std::memcpy(out + (long)first * hidden, workspace.hidden + (long)first * hidden,
                                (size_t)rows * hidden * sizeof(float));
                    finish_last(model.layers[last], out + (long)first * hidden, attended + (long)first * hidden, rows,
                                scratch);
                }
            }
        }
    }

    void embed(int first, int rows) {
        for (int r = 0; r < rows; r++) {
            int token = first + r;
            float* x = workspace.hidden + (long)token * hidden;
            const float* word = model.word_embeddings + (long)batch.token_ids[token] * hidden;
            const float* positions = model.position_embeddings;
            const float* position = positions ? positions + (long)batch.position_ids[token] * hidden : nullptr;
            const float* types = model.type_embeddings;
            const float* type = types ? types + (long)batch.type_ids[token] * hidden : nullptr;
            for (int c = 0; c < hidden; c += LANES) {
                Vec sum = load(word + c);
                if (position) sum = _mm512_add_ps(sum, load(position + c));
                if (type) sum = _mm512_add_ps(sum, load(type + c));
                store(x + c, sum);
            }
            norm(x, model.embedding_norm, hidden, model.eps, [&](int c, Vec y) { store(x + c, y); });
        }
    }

    // Rows of the residual stream as operands of a product, normed in a pre-norm model.
    void read(float* x, const Norm& n, int rows, Rows<T>& to) {
        to.shape(hidden);
        for (int r = 0; r < rows; r++) {
            float* row = x + (long)r * hidden;
            auto put = [&](int c, Vec y) { to.put(r, c, y); };
            if (model.pre_norm && n.weight)
                norm(row, n, hidden, model.eps, put);
            else
                for (int c = 0; c < hidden; c += LANES) put(c, load(row + c));
        }
        to.seal(rows);
    }

    // q, k and v of a block of tokens; if `pooled_only`, q of first tokens only.
    void project(const Layer& layer, int first, int rows, Scratch& s, bool pooled_only) {
        read(workspace.hidden + (long)first * hidden, layer.attention_norm, rows, s.rows);
        auto put = [&](int r, int column, Vec(&y)[4]) { put_qkv(layer, first + r, column, y); };
        matmul(s.rows, 0, rows, layer.qkv, pooled_only ? hidden : 0, 3 * hidden, put);
        if (!pooled_only) return;
        for (int r = 0; r < rows; r++)
            if (batch.positions[first + r] == 0) matmul(s.rows, r, r + 1, layer.qkv, 0, hidden, put);
    }

    // With rotary positions a tile of 64 columns is one head: v[0..1] are rotated against v[2..3].
    void put_qkv(const Layer& layer, int token, int column, Vec (&y)[4]) {
        if (layer.rotary && column < 2 * hidden) {
            const float* rotary = layer.rotary + (long)batch.positions[token] * 64;
            for (int v = 0; v < 2; v++) {
                Vec cos = load(rotary + v * LANES), sin = load(rotary + 32 + v * LANES);
                Vec left = y[v], right = y[v + 2];
                y[v] = _mm512_fmsub_ps(left, cos, _mm512_mul_ps(right, sin));
                y[v + 2] = _mm512_fmadd_ps(right, cos, _mm512_mul_ps(left, sin));
            }
        }
        for (int v = 0; v < 4; v++) store(qkv + (long)token * 3 * hidden + column + v * LANES, y[v]);
    }

    void attend(const Layer& layer, const Item& item, Scratch& s) {
        long begin = batch.bounds[item.pair];
        int length = batch.bounds[item.pair + 1] - begin;
        const Element* rows = qkv + begin * 3 * hidden;
        s.attention.run(rows, hidden, length, item.head, item.first, item.last, layer.window, attended + begin * hidden);
    }

    // Adds output projection and MLP to rows of the residual stream x, in place. attended_rows: attention's output.
    void finish(const Layer& layer, float* x, const Element* attended_rows, int rows, Scratch& s) {
        s.rows.shape(hidden);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < hidden; c += LANES) s.rows.put(r, c, load(attended_rows + (long)r * hidden + c));
        s.rows.seal(rows);
        auto add = [&](int r, int column, Vec(&y)[4]) {
            float* to = x + (long)r * hidden + column;
            for (int v = 0; v < 4; v++) store(to + v * LANES, _mm512_add_ps(load(to + v * LANES), y[v]));
        };
        matmul(s.rows, 0, rows, layer.attention_out, 0, hidden, add);
        post_norm(x, layer.attention_norm, rows);
        read(x, layer.mlp_norm, rows, s.rows);
        s.inner.shape(layer.mlp_out.in);
        matmul(s.rows, 0, rows, layer.mlp_in, 0, layer.mlp_in.out, [&](int r, int column, Vec(&y)[4]) {
            if (model.gated)  // each tile holds 32 columns and their 32 gates
                for (int v = 0; v < 2; v++) s.inner.put(r, column / 2 + v * LANES, _mm512_mul_ps(gelu<E>(y[v]), y[v + 2]));
            else
                for (int v = 0; v < 4; v++) s.inner.put(r, column + v * LANES, gelu<E>(y[v]));
        });
        s.inner.seal(rows);
        matmul(s.inner, 0, rows, layer.mlp_out, 0, hidden, add);
        post_norm(x, layer.mlp_norm, rows);
    }

    void post_norm(float* x, const Norm& n, int rows) {
        if (model.pre_norm) return;
        for (int r = 0; r < rows; r++) {
            float* row = x + (long)r * hidden;
            norm(row, n, hidden, model.eps, [&](int c, Vec y) { store(row + c, y); });
        }
    }

    // `finish` for the last layer, and the model's final norm.
    void finish_last(const Layer& layer, float* x, const Element* attended_rows, int rows, Scratch& s) {
        finish(layer, x, attended_rows, rows, s);
        if (!model.final_norm.weight) return;
        for (int r = 0; r < rows; r++) {
            float* row = x + (long)r * hidden;
            norm(row, model.final_norm, hidden, model.eps, [&](int c, Vec y) { store(row + c, y); });
        }
    }
};

// WEIGHTS and ATTENTION: element types. build.py compiles this file once for each combination of them.
extern "C" void rankfleet_forward(const Model* model, const Batch* batch, const Workspace* workspace, int pooled_only,
                                  int threads, float* out) {
    if (model->head_width == 32)
        Encoder<WEIGHTS, ATTENTION, 32>{*model, *batch, *workspace}.run(pooled_only, threads, out);
    else
        Encoder<WEIGHTS, ATTENTION, 64>{*model, *batch, *workspace}.run(pooled_only, threads, out);
}
