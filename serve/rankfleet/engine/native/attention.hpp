// Attention of one head within one pair, softmax(q kᵀ / √d) v, with or without a sliding window.
#pragma once
#include <algorithm>

#include "matmul.hpp"

// A work item of attention: pair, head and queries [first, last), counted from the pair's first token.
struct Item {
    int32_t pair, head, first, last;
};

// Transposes 16 × 16 units; rows from `rows` on are zero.
inline void transpose(const uint32_t* from, long step, int rows, uint32_t* to) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = i < rows ? _mm512_loadu_si512(from + i * step) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + k + 2]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + k + 2]);
        }
    for (int half = 0; half < 16; half += 8)
        for (int i = 0; i < 4; i++) {
            b[half + i] = _mm512_shuffle_i32x4(a[half + i], a[half + i + 4], 0x88);
            b[half + i + 4] = _mm512_shuffle_i32x4(a[half + i], a[half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_si512(to + LANES * i, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(to + LANES * (i + 8), _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

template <class E, int D>
struct HeadAttention {
    using Element = typename E::Element;
    static constexpr int UNITS = D / E::UNIT;  // of one query or key
    static constexpr int VECTORS = D / LANES;  // of one value
#ifdef __AMX_BF16__
    static constexpr bool BY_TILES = std::is_same_v<E, Bfloat16>;
    static constexpr int QUERIES = BY_TILES ? SIDE : STRIP;    // computed together
    static constexpr int KEYS = BY_TILES ? 2 * LANES : LANES;  // padded to a multiple of this
#else
    static constexpr bool BY_TILES = false;
    static constexpr int QUERIES = STRIP, KEYS = LANES;
#endif

    std::vector<uint32_t> keys;    // [keys / 16][UNITS][16]
    std::vector<uint32_t> values;  // [keys / UNIT][D]
    std::vector<float> scores;     // [QUERIES][keys]
    std::vector<Element> weights;  // [QUERIES][keys]

    // Queries [first, last) of one head. qkv: rows of 3 × hidden from the pair's first token on; out: rows of hidden.
    // window: how far a query attends to each side; negative: to the whole pair.
    void run(const Element* qkv, int hidden, int length, int head, int first, int last, int window, Element* out) {
        const long step = 3 * hidden;
        int low = window < 0 ? 0 : std::max(0, first - window) / KEYS * KEYS;
        int high = window < 0 ? length : std::min(length, last + window);
        pack(qkv + hidden + head * D, qkv + 2 * hidden + head * D, step, low, high);
        int room = padded(high - low);
        size_t size = (size_t)QUERIES * room;
        if (scores.size() < size) scores.resize(size), weights.resize(size);
        for (int strip = first; strip < last; strip += QUERIES) {
            int count = std::min(QUERIES, last - strip);
            int from = window < 0 ? 0 : std::max(0, strip - window) / KEYS * KEYS;
            int to = window < 0 ? length : std::min(length, strip + count + window);
            const Element* query = qkv + strip * step + head * D;
            Strip of{query, step, strip, from, to, low, window, room, out + (long)strip * hidden + head * D, hidden};
            if constexpr (BY_TILES)
                by_tiles(of, count);
            else
                with_constant<STRIP>(count, [&](auto constant) { by_vectors<constant>(of); });
        }
    }

  private:
    // Queries from `first` on against keys [from, to). low: the first packed key. room: between rows of scores.
    struct Strip {
        const Element* query;
        long query_step;
        int first, from, to, low, window, room;
        Element* out;
        long out_step;

        int width() const { return padded(to - from); }
    };

    static int padded(int count) { return (count + KEYS - 1) / KEYS * KEYS; }

    // Keys [low, high) as columns of units, values as units along the keys, both padded with zeros.
    void pack(const Element* key, const Element* value, long step, int low, int high) {
        int panels = padded(high - low) / LANES;
        if (keys.size() < (size_t)panels * LANES * UNITS) {
            keys.resize((size_t)panels * LANES * UNITS);
            values.resize((size_t)(panels * LANES / E::UNIT) * D);
        }
        for (int panel = 0; panel < panels; panel++) {
            int at = low + panel * LANES, rows = std::min(LANES, high - at);
            const uint32_t* from = reinterpret_cast<const uint32_t*>(key + at * step);
            for (int u = 0; u < UNITS; u += LANES)
                transpose(from + u, step / E::UNIT, rows, &keys[((size_t)panel * UNITS + u) * LANES]);
        }
        for (int at = 0; at < panels * LANES; at += E::UNIT)
            for (int d = 0; d < D; d += LANES) {
                auto vector = [&](int k) { return low + k < high ? load(value + (low + k) * step + d) : all(0.f); };
                __m512i units = _mm512_castps_si512(vector(at));
                if constexpr (E::UNIT == 2)  // two bfloat16 in a unit, the first key's in the lower half
                    units = _mm512_or_si512(_mm512_srli_epi32(units, 16), _mm512_castps_si512(vector(at + 1)));
                _mm512_storeu_si512(&values[(size_t)(at / E::UNIT) * D + d], units);
            }
    }

    // The sum of the weights of the strip's query `r`, which are put into row `r`.
    float weigh(const Strip& of, int r) {
        // The keys that this query attends to: columns [begin, end) of the strip's.
        int begin = of.window < 0 ? 0 : std::max(0, of.first + r - of.window - of.from);
        int end = of.window < 0 ? of.to - of.from : std::min(of.to, of.first + r + of.window + 1) - of.from;
        return softmax(&scores[(size_t)r * of.room], &weights[(size_t)r * of.room], of.width(), begin, end);
    }

    template <int R>
    void by_vectors(const Strip& of) {
        const uint32_t* rows = reinterpret_cast<const uint32_t*>(of.query);
        int panels = of.width() / LANES;
        for (int panel = 0; panel < panels; panel += 4)
            with_constant<4>(panels - panel, [&](auto count) {
                constexpr int V = count;
                const uint32_t* columns = &keys[(size_t)((of.from - of.low) / LANES + panel) * LANES * UNITS];
                auto sums = tile<E, R, V>(rows, of.query_step / E::UNIT, columns, LANES * UNITS, LANES, UNITS);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) store(&scores[(size_t)r * of.room + (panel + v) * LANES], sums.at[r][v]);
            });
        float total[R];
        for (int r = 0; r < R; r++) total[r] = weigh(of, r);
        auto sums = tile<E, R, VECTORS>(reinterpret_cast<const uint32_t*>(weights.data()), of.room / E::UNIT,
                                        &values[(size_t)((of.from - of.low) / E::UNIT) * D], LANES, D,
                                        of.width() / E::UNIT);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                store(of.out + r * of.out_step + v * LANES, _mm512_mul_ps(sums.at[r][v], all(1.f / total[r])));
    }

#ifdef __AMX_BF16__
    // All 16 queries of a tile are multiplied, and those from `count` on dropped. They are rows of the next pair, or the
    // spare ones after the last (encoder.py).
    void by_tiles(const Strip& of, int count) {
        const long query_bytes = of.query_step * sizeof(Element), key_bytes = LANES * 4;
        end_stores();
        _tile_loadd(4, of.query, query_bytes);
        if constexpr (D == 64) _tile_loadd(5, of.query + 32, query_bytes);
        const uint32_t* columns = &keys[(size_t)(of.from - of.low) * UNITS];
        for (int c = 0; c < of.width(); c += KEYS, columns += KEYS * UNITS) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_loadd(6, columns, key_bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, columns + LANES * UNITS, key_bytes);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (D == 64) {
                _tile_loadd(6, columns + LANES * SIDE, key_bytes);
                _tile_dpbf16ps(0, 5, 6);
                _tile_loadd(7, columns + LANES * UNITS + LANES * SIDE, key_bytes);
                _tile_dpbf16ps(1, 5, 7);
            }
            _tile_stored(0, &scores[c], of.room * sizeof(float));
            _tile_stored(1, &scores[c + LANES], of.room * sizeof(float));
        }
        float total[SIDE];
        for (int r = 0; r < count; r++) total[r] = weigh(of, r);
        end_stores();
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        const uint32_t* value = &values[(size_t)((of.from - of.low) / E::UNIT) * D];
        for (int c = 0; c < of.width(); c += KEYS, value += KEYS / E::UNIT * D) {
            _tile_loadd(4, &weights[c], of.room * sizeof(Element));
            _tile_loadd(6, value, D * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, value + LANES, D * 4);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (D == 64) {
                _tile_loadd(6, value + 2 * LANES, D * 4);
                _tile_dpbf16ps(2, 4, 6);
                _tile_loadd(7, value + 3 * LANES, D * 4);
                _tile_dpbf16ps(3, 4, 7);
            }
        }
        alignas(64) float sums[SIDE * D];
        _tile_stored(0, sums, D * sizeof(float));
        _tile_stored(1, sums + LANES, D * sizeof(float));
        if constexpr (D == 64) {
            _tile_stored(2, sums + 2 * LANES, D * sizeof(float));
            _tile_stored(3, sums + 3 * LANES, D * sizeof(float));
        }
        for (int r = 0; r < count; r++)
            for (int d = 0; d < D; d += LANES)
                store(of.out + r * of.out_step + d, _mm512_mul_ps(load(sums + r * D + d), all(1.f / total[r])));
    }
#endif

    // to = exp((from - max) / √D) on [begin, end), zero elsewhere. Returns the sum.
    static float softmax(const float* from, Element* to, int width, int begin, int end) {
        auto inside = [&](int c) {
            __m512i at = _mm512_add_epi32(_mm512_set1_epi32(c), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            return (__mmask16)(_mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(begin)) & _mm512_cmplt_epi32_mask(at, _mm512_set1_epi32(end)));
        };
        Vec max = all(-3e38f);
        for (int c = 0; c < width; c += LANES) max = _mm512_mask_max_ps(max, inside(c), max, load(from + c));
        const Vec scale = all(1.44269504f / (D == 64 ? 8.f : 5.65685425f));
        Vec top = _mm512_mul_ps(all(_mm512_reduce_max_ps(max)), scale);
        Vec sum = all(0.f);
        for (int c = 0; c < width; c += LANES) {
            Vec power = _mm512_maskz_mov_ps(inside(c), exp2<E>(_mm512_fmsub_ps(load(from + c), scale, top)));
            sum = _mm512_add_ps(sum, power);
            store(to + c, power);
        }
        return _mm512_reduce_add_ps(sum);
    }
};
