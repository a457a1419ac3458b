// Matrix products of few rows: the sums of a tile of rows × 64 columns stay in registers over the inner dimension.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "vector.hpp"

constexpr int STRIP = 6;    // rows of a tile: 6 × 4 of the 32 registers hold its sums
constexpr int COLUMNS = 64; // columns of a tile
#ifdef __AMX_TILE__
constexpr int BLOCK = 64;   // rows that share one pass over the weights
constexpr int SPARE = 32;   // rows after them that products may read
#else
constexpr int BLOCK = 48;
constexpr int SPARE = 0;
#endif

// Adds one 32-bit unit of a row times 16 columns to the sums of the 16 columns.
template <class T>
struct Dot {
    using Sums = Vec;
    static Sums zero() { return _mm512_setzero_ps(); }
};
template <>
struct Dot<Int8> {
    using Sums = __m512i;
    static Sums zero() { return _mm512_setzero_si512(); }
};

template <class T>
inline typename Dot<T>::Sums dot(typename Dot<T>::Sums sums, __m512i unit, __m512i columns);

template <>
inline Vec dot<Float32>(Vec sums, __m512i unit, __m512i columns) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(unit), _mm512_castsi512_ps(columns), sums);
}
#ifdef __AVX512BF16__
template <>
inline Vec dot<Bfloat16>(Vec sums, __m512i unit, __m512i columns) {
    return _mm512_dpbf16_ps(sums, (__m512bh)unit, (__m512bh)columns);
}
#endif
#ifdef __AVX512VNNI__
template <>
inline __m512i dot<Int8>(__m512i sums, __m512i unit, __m512i columns) {
    // With the intrinsic, GCC 12 copies every sum through the stack.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unit), "v"(columns));
    return sums;
}
#endif

// Sums of R rows by V vectors of columns.
template <class T, int R, int V>
struct Tile {
    typename Dot<T>::Sums at[R][V];
};

// rows: R rows of `units` units, `row_step` units apart. columns: V vectors for each unit, `vector_step` apart within
// it, and `unit_step` from one unit to the next.
template <class T, int R, int V>
[[gnu::always_inline]] inline Tile<T, R, V> tile(const uint32_t* rows, long row_step, const uint32_t* columns,
                                                 long vector_step, long unit_step, int units) {
    Tile<T, R, V> sums;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums.at[r][v] = Dot<T>::zero();
    for (int u = 0; u < units; u++, columns += unit_step) {
        __m512i c[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) c[v] = _mm512_loadu_si512(columns + v * vector_step);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512i unit = _mm512_set1_epi32(rows[r * row_step + u]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums.at[r][v] = dot<T>(sums.at[r][v], unit, c[v]);
        }
    }
    return sums;
}

// Calls f with `count`, in [1, MAX], as a compile-time constant.
template <int MAX, class F>
inline void with_constant(int count, F&& f) {
    if constexpr (MAX > 1) {
        if (count < MAX) return with_constant<MAX - 1>(count, static_cast<F&&>(f));
    }
    f(std::integral_constant<int, MAX>{});
}

// y = x Wᵀ + b, laid out by structs.py. weight: units [out / 64][in / UNIT][64]. For int8 also scale [out], and
// shift [out] = Σ W, with which the rows' zero points are subtracted again.
struct Linear {
    const uint32_t* weight;
    const float* bias;
    const float* scale;
    const int32_t* shift;
    int64_t in, out;
};

// A block of rows as the left operand of products. Values are put in as floats; `seal` ends that.
template <class T>
struct Rows {
    std::vector<typename T::Element> data;
    int width = 0;

    void shape(int columns) {
        width = columns;
        size_t size = (size_t)(BLOCK + SPARE) * columns;
        if (data.size() < size) data.resize(size);
    }
    void put(int row, int column, Vec v) { store(&data[(size_t)row * width + column], v); }
    void seal(int) {}
    const uint32_t* units(int row) const { return reinterpret_cast<const uint32_t*>(&data[(size_t)row * width]); }
    int step() const { return width / T::UNIT; }
};

// Each row's range [min, max], widened to include 0, becomes 0 … 255: value = scale × (byte − zero).
template <>
struct Rows<Int8> {
    std::vector<uint8_t> data;
    std::vector<float> values;
    float scale[BLOCK];
    int32_t zero[BLOCK];
    int width = 0;

    void shape(int columns) {
        width = columns;
        if (values.size() < (size_t)BLOCK * columns) {
            values.resize((size_t)BLOCK * columns);
            data.resize((size_t)(BLOCK + SPARE) * columns);
        }
    }
    void put(int row, int column, Vec v) { store(&values[(size_t)row * width + column], v); }
    void seal(int rows) {
        for (int r = 0; r < rows; r++) {
            const float* from = &values[(size_t)r * width];
            Vec min = all(0.f), max = all(1e-12f);
            for (int c = 0; c < width; c += LANES) {
                Vec v = load(from + c);
                min = _mm512_min_ps(min, v);
                max = _mm512_max_ps(max, v);
            }
            float low = _mm512_reduce_min_ps(min);
            scale[r] = (_mm512_reduce_max_ps(max) - low) / 255.f;
            zero[r] = (int32_t)(-low / scale[r] + .5f);
            Vec up = all(1.f / scale[r]);
            for (int c = 0; c < width; c += LANES) {
                __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(from + c), up));
                whole = _mm512_max_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(zero[r])), _mm512_setzero_si512());
                _mm_storeu_si128(reinterpret_cast<__m128i*>(&data[(size_t)r * width + c]), _mm512_cvtusepi32_epi8(whole));
            }
        }
    }
    const uint32_t* units(int row) const { return reinterpret_cast<const uint32_t*>(&data[(size_t)row * width]); }
    int step() const { return width / Int8::UNIT; }
};

// The sums of one row and vector as floats, with the bias added.
template <class T>
inline Vec finished(const Linear& w, const Rows<T>&, int, int column, Vec sums) {
    return _mm512_add_ps(sums, load(w.bias + column));
}
inline Vec finished(const Linear& w, const Rows<Int8>& rows, int row, int column, __m512i sums) {
    __m512i off = _mm512_mullo_epi32(_mm512_loadu_si512(w.shift + column), _mm512_set1_epi32(rows.zero[row]));
    sums = _mm512_sub_epi32(sums, off);
    Vec scale = _mm512_mul_ps(load(w.scale + column), all(rows.scale[row]));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, load(w.bias + column));
}

#ifdef __AMX_TILE__
// AMX: eight registers of 16 rows of 64 bytes. A product of two adds, for 16 rows and 16 columns, 16 units to the sums.
constexpr int SIDE = 16;

struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

// Each thread sets the shapes once, before its first product, and gives the registers back at the end.
struct TileRegisters {
    TileRegisters() {
        TileShapes shapes;
        for (int t = 0; t < 8; t++) shapes.bytes[t] = 64, shapes.rows[t] = SIDE;
        asm volatile("" ::"m"(shapes));  // GCC takes it that only the first bytes of them are read
        _tile_loadconfig(&shapes);
    }
    ~TileRegisters() { _tile_release(); }
};

// GCC does not know that loads of tiles read memory: before them, this ends what it has postponed to store.
inline void end_stores() { asm volatile("" ::: "memory"); }

// Sums of 32 rows by 32 columns, in registers 0 … 3: rows from `rows` on, `row_step` units apart, and columns from
// `columns` on, laid out as in `Linear`. They are written to `sums`, [32][COLUMNS] 32-bit numbers.
template <class T>
inline void tile_square(const uint32_t* rows, long row_step, const uint32_t* columns, int units, uint32_t* sums) {
    const long row_bytes = row_step * 4, column_bytes = COLUMNS * 4;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int u = 0; u < units; u += SIDE) {
        _tile_loadd(4, rows + u, row_bytes);
        _tile_loadd(6, columns + (long)u * COLUMNS, column_bytes);
        _tile_loadd(7, columns + (long)u * COLUMNS + LANES, column_bytes);
        _tile_loadd(5, rows + SIDE * row_step + u, row_bytes);
        if constexpr (std::is_same_v<T, Int8>) {
#ifdef __AMX_INT8__
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
#endif
        } else {
#ifdef __AMX_BF16__
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
#endif
        }
    }
    _tile_stored(0, sums, column_bytes);
    _tile_stored(1, sums + LANES, column_bytes);
    _tile_stored(2, sums + SIDE * COLUMNS, column_bytes);
    _tile_stored(3, sums + SIDE * COLUMNS + LANES, column_bytes);
}

inline Vec sums_at(const Rows<Bfloat16>&, const uint32_t* from) { return _mm512_castsi512_ps(_mm512_loadu_si512(from)); }
inline __m512i sums_at(const Rows<Int8>&, const uint32_t* from) { return _mm512_loadu_si512(from); }

// `matmul` below. Sums of rows after `end` are computed, too, and dropped.
template <class T, class Done>
inline void matmul_by_tiles(const Rows<T>& x, int begin, int end, const Linear& w, int from, int to, Done&& done) {
    alignas(64) uint32_t sums[2 * SIDE * COLUMNS];
    int units = w.in / T::UNIT;
    end_stores();
    for (int column = from; column < to; column += COLUMNS) {
        const uint32_t* weight = w.weight + (long)column * units;
        for (int first = begin; first < end; first += 2 * SIDE) {
            for (int half = 0; half < COLUMNS; half += 2 * LANES)
                tile_square<T>(x.units(first), x.step(), weight + half, units, sums + half);
            for (int r = 0; r < std::min(2 * SIDE, end - first); r++) {
                Vec y[4];
                for (int v = 0; v < 4; v++)
                    y[v] = finished(w, x, first + r, column + v * LANES, sums_at(x, sums + r * COLUMNS + v * LANES));
                done(first + r, column, y);
            }
        }
    }
}
#else
struct TileRegisters {};
#endif

// Rows [begin, end) of x times columns [from, to) of the layer. done(row, column, Vec[4]) receives 64 columns of a row.
template <class T, class Done>
inline void matmul(const Rows<T>& x, int begin, int end, const Linear& w, int from, int to, Done&& done) {
    int units = w.in / T::UNIT;
#ifdef __AMX_TILE__
    if (units % SIDE == 0) return matmul_by_tiles(x, begin, end, w, from, to, done);
#endif
    for (int column = from; column < to; column += COLUMNS) {
        const uint32_t* weight = w.weight + (long)column * units;
        for (int first = begin; first < end; first += STRIP) {
            with_constant<STRIP>(end - first, [&](auto count) {
                constexpr int R = count;
                auto sums = tile<T, R, 4>(x.units(first), x.step(), weight, LANES, COLUMNS, units);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    Vec y[4];
#pragma GCC unroll 4
                    for (int v = 0; v < 4; v++) y[v] = finished(w, x, first + r, column + v * LANES, sums.at[r][v]);
                    done(first + r, column, y);
                }
            });
        }
    }
}
