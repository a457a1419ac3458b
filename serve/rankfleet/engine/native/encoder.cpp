// A transformer encoder over a packed batch: ModernBERT (pre-norm, rotary, gated) and BERT (post-norm).
//
// Two phases a layer, each shared between threads with a barrier behind it: blocks of rows up to q, k, v; then
// attention, pair by pair and head by head. A block goes through output projection, MLP and the next layer's
// q, k, v in one go, so what it needs stays in the core's own cache. The residual stream is float32.
#include <omp.h>

#include <cmath>
#include <cstring>

#include "attention.hpp"

struct Norm {
    const float* weight;  // null for no norm
    const float* bias;
};

struct Layer {
    Norm attention_norm, mlp_norm;
    Linear qkv, attention_out, mlp_in, mlp_out;
    int64_t window;      // how far a token sees to each side; below 0 for all
    const float* rotary; // [positions][2][32] cos and sin; null for none
};

struct Model {
    const float* words;    // [vocabulary][hidden]
    const float* places;   // [positions][hidden] or null
    const float* types;    // [types][hidden] or null
    Norm embedding_norm, final_norm;
    const Layer* layers;
    int64_t hidden, layer_count, head_width, pre_norm, gated;
    float eps;
};

// offsets [pairs + 1]: where each pair begins; token_ids, positions (in the pair), place_ids (rows of `places`),
// type_ids [tokens].
struct Batch {
    const int32_t *offsets, *token_ids, *positions, *place_ids, *type_ids;
    const Item* items;
    int64_t tokens, pairs, item_count;
};

// Buffers of at least `tokens` rows. hidden: [tokens][hidden]; qkv: [tokens][3 hidden]; attended [tokens][hidden].
struct Space {
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

// T: operands of the matrix products with weights; E: of attention; D: width of a head.
template <class T, class E, int D>
struct Encoder {
    using Element = typename E::Element;
    const Model& model;
    const Batch& batch;
    const Space& space;
    const int hidden = model.hidden;
    Element* const qkv = static_cast<Element*>(space.qkv);
    Element* const attended = static_cast<Element*>(space.attended);

    // One per thread.
    struct Scratch {
        Rows<T> rows, inner;
        Attention<E, D> attention;
    };

    // [hidden] float32 of each pair's first token if `first_only`, else of all tokens, go to `out`.
    void run(bool first_only, int threads, float* out) {
#pragma omp parallel num_threads(threads)
        {
            Scratch scratch;
            const int last = model.layer_count - 1;
            const int blocks = (batch.tokens + BLOCK - 1) / BLOCK;
#pragma omp for schedule(dynamic)
            for (int b = 0; b < blocks; b++) {
                int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                embed(first, rows);
                project(model.layers[0], first, rows, scratch, last == 0 && first_only);
            }
            for (int l = 0; l < last; l++) {
#pragma omp for schedule(dynamic)
                for (int i = 0; i < batch.item_count; i++) attend(model.layers[l], batch.items[i], scratch);
#pragma omp for schedule(dynamic)
                for (int b = 0; b < blocks; b++) {
                    int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                    finish(model.layers[l], space.hidden + (long)first * hidden, attended + (long)first * hidden, rows, scratch);
                    project(model.layers[l + 1], first, rows, scratch, l + 1 == last && first_only);
                }
            }
            // The last layer is finished for the rows that are asked for.
            if (first_only) {
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
                    std::vector<Element> seen((size_t)rows * hidden);
                    for (int r = 0; r < rows; r++) {
                        long token = batch.offsets[first + r];
                        std::memcpy(out + (long)(first + r) * hidden, space.hidden + token * hidden, hidden * sizeof(float));
                        std::memcpy(&seen[(size_t)r * hidden], attended + token * hidden, hidden * sizeof(Element));
                    }
                    close(model.layers[last], out + (long)first * hidden, seen.data(), rows, scratch);
                }
            } else {
#pragma omp for schedule(dynamic)
                for (int i = 0; i < batch.item_count; i++) attend(model.layers[last], batch.items[i], scratch);
#pragma omp for schedule(dynamic)
                for (int b = 0; b < blocks; b++) {
                    int first = b * BLOCK, rows = std::min<int>(BLOCK, batch.tokens - first);
                    std::memcpy(out + (long)first * hidden, space.hidden + (long)first * hidden, (size_t)rows * hidden * sizeof(float));
                    close(model.layers[last], out + (long)first * hidden, attended + (long)first * hidden, rows, scratch);
                }
            }
        }
    }

    void embed(int first, int rows) {
        for (int r = 0; r < rows; r++) {
            int token = first + r;
            float* x = space.hidden + (long)token * hidden;
            const float* word = model.words + (long)batch.token_ids[token] * hidden;
            const float* place = model.places ? model.places + (long)batch.place_ids[token] * hidden : nullptr;
            const float* type = model.types ? model.types + (long)batch.type_ids[token] * hidden : nullptr;
            for (int c = 0; c < hidden; c += LANES) {
                Vec sum = load(word + c);
                if (place) sum = _mm512_add_ps(sum, load(place + c));
                if (type) sum = _mm512_add_ps(sum, load(type + c));
                store(x + c, sum);
            }
            norm(x, model.embedding_norm, hidden, model.eps, [&](int c, Vec y) { store(x + c, y); });
        }
    }

    // Rows of the residual stream as operands: normed if the layer norms first.
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

    // q, k, v of a block of tokens; q of first tokens alone where nothing else is asked for.
    void project(const Layer& layer, int first, int rows, Scratch& s, bool first_only) {
        read(space.hidden + (long)first * hidden, layer.attention_norm, rows, s.rows);
        auto put = [&](int r, int column, Vec(&y)[4]) { put_qkv(layer, first + r, column, y); };
        matmul(s.rows, 0, rows, layer.qkv, first_only ? hidden : 0, 3 * hidden, put);
        if (!first_only) return;
        for (int r = 0; r < rows; r++)
            if (batch.positions[first + r] == 0) matmul(s.rows, r, r + 1, layer.qkv, 0, hidden, put);
    }

    // A tile of 64 columns is one head where there are rotary positions: v[0..1] turn against v[2..3].
    void put_qkv(const Layer& layer, int token, int column, Vec (&y)[4]) {
        if (layer.rotary && column < 2 * hidden) {
            const float* turn = layer.rotary + (long)batch.positions[token] * 64;
            for (int v = 0; v < 2; v++) {
                Vec cos = load(turn + v * LANES), sin = load(turn + 32 + v * LANES);
                Vec left = y[v], right = y[v + 2];
                y[v] = _mm512_fmsub_ps(left, cos, _mm512_mul_ps(right, sin));
                y[v + 2] = _mm512_fmadd_ps(right, cos, _mm512_mul_ps(left, sin));
            }
        }
        for (int v = 0; v < 4; v++) store(qkv + (long)token * 3 * hidden + column + v * LANES, y[v]);
    }

    void attend(const Layer& layer, const Item& item, Scratch& s) {
        long begin = batch.offsets[item.pair];
        int length = batch.offsets[item.pair + 1] - begin;
        const Element* rows = qkv + begin * 3 * hidden;
        s.attention.run(rows, hidden, length, item.head, item.first, item.last, layer.window, attended + begin * hidden);
    }

    // Output projection and MLP of rows of the residual stream x, in place.
    void finish(const Layer& layer, float* x, const Element* seen, int rows, Scratch& s) {
        s.rows.shape(hidden);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < hidden; c += LANES) s.rows.put(r, c, load(seen + (long)r * hidden + c));
        s.rows.seal(rows);
        auto add = [&](int r, int column, Vec(&y)[4]) {
            float* to = x + (long)r * hidden + column;
            for (int v = 0; v < 4; v++) store(to + v * LANES, _mm512_add_ps(load(to + v * LANES), y[v]));
        };
        matmul(s.rows, 0, rows, layer.attention_out, 0, hidden, add);
        renorm(x, layer.attention_norm, rows);
        read(x, layer.mlp_norm, rows, s.rows);
        s.inner.shape(layer.mlp_out.in);
        matmul(s.rows, 0, rows, layer.mlp_in, 0, layer.mlp_in.out, [&](int r, int column, Vec(&y)[4]) {
            if (model.gated)  // each tile holds 32 columns and the 32 gates that belong to them
                for (int v = 0; v < 2; v++) s.inner.put(r, column / 2 + v * LANES, _mm512_mul_ps(gelu<E>(y[v]), y[v + 2]));
            else
                for (int v = 0; v < 4; v++) s.inner.put(r, column + v * LANES, gelu<E>(y[v]));
        });
        s.inner.seal(rows);
        matmul(s.inner, 0, rows, layer.mlp_out, 0, hidden, add);
        renorm(x, layer.mlp_norm, rows);
    }

    void renorm(float* x, const Norm& n, int rows) {
        if (model.pre_norm) return;
        for (int r = 0; r < rows; r++) {
            float* row = x + (long)r * hidden;
            norm(row, n, hidden, model.eps, [&](int c, Vec y) { store(row + c, y); });
        }
    }

    void close(const Layer& layer, float* x, const Element* seen, int rows, Scratch& s) {
        finish(layer, x, seen, rows, s);
        if (!model.final_norm.weight) return;
        for (int r = 0; r < rows; r++) {
            float* row = x + (long)r * hidden;
            norm(row, model.final_norm, hidden, model.eps, [&](int c, Vec y) { store(row + c, y); });
        }
    }
};

template <class T, class E>
void forward_of(const Model& model, const Batch& batch, const Space& space, bool first_only, int threads, float* out) {
    if (model.head_width == 32)
        Encoder<T, E, 32>{model, batch, space}.run(first_only, threads, out);
    else
        Encoder<T, E, 64>{model, batch, space}.run(first_only, threads, out);
}

#ifdef __AVX512BF16__
using Half = Bfloat16;
#else
using Half = Float32;
#endif

enum Kind { FLOAT32, BFLOAT16, INT8 };

extern "C" void rankfleet_forward(int kind, const Model* model, const Batch* batch, const Space* space, int first_only,
                                  int threads, float* out) {
    if (kind == FLOAT32)
        forward_of<Float32, Float32>(*model, *batch, *space, first_only, threads, out);
#ifdef __AVX512BF16__
    if (kind == BFLOAT16)
        forward_of<Bfloat16, Bfloat16>(*model, *batch, *space, first_only, threads, out);
#endif
#ifdef __AVX512VNNI__
    if (kind == INT8)
        forward_of<Int8, Half>(*model, *batch, *space, first_only, threads, out);
#endif
}
