// The operations of an SAE update on a CPU: plain loops that a compiler vectorises, compiled once per instruction set (build.py).
//
// Matrices are row-major float32, weights [d_sae, d_model]. Nothing is kept between calls. Rows and latents are worked on
// independently, sums over them run in one order, so results do not depend on the number of threads. NaN and infinity keep their
// meaning: no flag lets the compiler assume them away. Functions return 0, or one of the numbers below.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#define RESTRICT __restrict__

namespace {

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;

constexpr int32_t OUT_OF_MEMORY = 1;
constexpr int32_t TOO_MANY = 2;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// ---- threads ----

// Memory whose content is not set; a vector would write zeros first.
template <class T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::unique_ptr<T[]>(new T[std::max<int64_t>(count, 1)]);
}

// Borders of one range of items per thread, of about equal weight, if those before item i weigh weight(i).
template <class Weight>
std::vector<int64_t> ranges(int64_t count, int64_t threads, const Weight& weight) {
  threads = std::max<int64_t>(1, std::min(threads, count));
  std::vector<int64_t> borders(threads + 1, count);
  borders[0] = 0;
  for (int64_t t = 1; t < threads; ++t) {
    const double share = static_cast<double>(weight(count)) * t / threads;
    int64_t low = borders[t - 1], high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (weight(middle) < share) low = middle + 1;
      else high = middle;
    }
    borders[t] = low;
  }
  return borders;
}

std::vector<int64_t> ranges(int64_t count, int64_t threads) {
  return ranges(count, threads, [](int64_t i) { return i; });
}

// Calls work(first, last, range) on every range, all but one on threads of their own.
template <class Work>
void in_parallel(const std::vector<int64_t>& borders, const Work& work) {
  std::atomic<bool> failed{false};
  const auto guarded = [&](size_t range) {
    try {
      work(borders[range], borders[range + 1], range);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  others.reserve(borders.size());
  for (size_t range = 1; range + 1 < borders.size(); ++range) {
    try {
      others.emplace_back(guarded, range);
    } catch (const std::system_error&) {
      guarded(range);
    }
  }
  guarded(0);
  for (auto& other : others) other.join();
  if (failed) throw std::bad_alloc();
}

template <class Body>
int32_t status_of(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  }
}

// ---- numbers ----

template <class To, class From>
To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

float from_bf16(uint16_t number) { return bits_of<float>(static_cast<uint32_t>(number) << 16); }

// Nearest bfloat16, of two the even one; a subnormal number becomes 0, as it does in a product of bfloat16 matrices.
uint16_t to_bf16(float number) {
  const uint32_t bits = bits_of<uint32_t>(number);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t normal = (bits & 0x7f800000u) == 0 ? 0u : rounded;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : normal);
}

// Integers in the order of their numbers; NaN is largest.
int32_t key_of(float number) {
  const int32_t bits = bits_of<int32_t>(number);
  const int32_t key = bits ^ ((bits >> 31) & 0x7fffffff);
  return number == number ? key : std::numeric_limits<int32_t>::max();
}

float number_of(int32_t key) { return bits_of<float>(key ^ ((key >> 31) & 0x7fffffff)); }

// ---- loops over vectors of length n ----

// In four parts, so that an addition need not wait for the one before.
float dot(const float* RESTRICT a, const float* RESTRICT b, int64_t n) {
  const int64_t part = n / 4;
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (int64_t i = 0; i < part; ++i) {
    s0 += a[i] * b[i];
    s1 += a[i + part] * b[i + part];
    s2 += a[i + 2 * part] * b[i + 2 * part];
    s3 += a[i + 3 * part] * b[i + 3 * part];
  }
  for (int64_t i = 4 * part; i < n; ++i) s0 += a[i] * b[i];
  return (s0 + s1) + (s2 + s3);
}

// Several rows at once: what they meet is read once for all, and the processor waits for them together.
constexpr int64_t TOGETHER = 8;

template <size_t... I>
void dots_with(const float* RESTRICT a, const float* const* given, int64_t n, float* found, std::index_sequence<I...>) {
  const float* const rows[] = {given[I]...};
  float sums[] = {(static_cast<void>(I), 0.0f)...};
  for (int64_t i = 0; i < n; ++i) ((sums[I] += a[i] * rows[I][i]), ...);
  ((found[I] = sums[I]), ...);
}

template <size_t... I>
void add_multiples(float* RESTRICT sum, const float* const* given, const float* factors, int64_t n, std::index_sequence<I...>) {
  const float* const rows[] = {given[I]...};
  const float by[] = {factors[I]...};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += ((by[I] * rows[I][i]) + ...);
}

// Calls work with as many indices as `count`, 1 to TOGETHER, known to the compiler.
template <int64_t N = TOGETHER, class Work>
void with_count(int64_t count, const Work& work) {
  if constexpr (N > 0) {
    if (count == N) work(std::make_index_sequence<N>());
    else with_count<N - 1>(count, work);
  }
}

// sum += Σ factor(j) · row(j) over j in first … last.
template <class Row, class Factor>
void add_rows(float* sum, int64_t first, int64_t last, const Row& row, const Factor& factor, int64_t n) {
  for (int64_t j = first; j < last; j += TOGETHER) {
    const int64_t count = std::min(TOGETHER, last - j);
    const float* rows[TOGETHER];
    float factors[TOGETHER];
    for (int64_t i = 0; i < count; ++i) rows[i] = row(j + i), factors[i] = factor(j + i);
    with_count(count, [&](auto indices) { add_multiples(sum, rows, factors, n, indices); });
  }
}

// put(j, ⟨a, row(j)⟩) for j in first … last.
template <class Row, class Put>
void dot_rows(const float* a, int64_t first, int64_t last, const Row& row, const Put& put, int64_t n) {
  for (int64_t j = first; j < last; j += TOGETHER) {
    const int64_t count = std::min(TOGETHER, last - j);
    const float* rows[TOGETHER];
    float sums[TOGETHER];
    for (int64_t i = 0; i < count; ++i) rows[i] = row(j + i);
    if (count == 1) sums[0] = dot(a, rows[0], n);
    else with_count(count, [&](auto indices) { dots_with(a, rows, n, sums, indices); });
    for (int64_t i = 0; i < count; ++i) put(j + i, sums[i]);
  }
}

// ---- selection ----

// A key that at least k of the n keys reach, and fewer than k exceed: bit by bit, counting how many reach a guess. `keys` has room
// for n + 16: whole vectors are counted.
int32_t kth_largest(int32_t* RESTRICT keys, int64_t n, int64_t k) {
  const int64_t whole = (n + 15) / 16 * 16;
  std::fill(keys + n, keys + whole, std::numeric_limits<int32_t>::min());
  uint32_t found = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t tried = found | (1u << bit);
    const int32_t least = bits_of<int32_t>(tried ^ 0x80000000u);
    int64_t count = 0;
    for (int64_t first = 0; first < whole; first += 1 << 20) {
      const int64_t last = std::min<int64_t>(first + (1 << 20), whole);
      int32_t part = 0;
      for (int64_t i = first; i < last; ++i) part += keys[i] >= least;
      count += part;
    }
    if (count >= k) found = tried;
    if (count == k) break;
  }
  return bits_of<int32_t>(found ^ 0x80000000u);
}

// Writes the places at which values[i] < least does not hold, rising, and returns how many; `places` has room for n + 16.
int64_t not_below(const float* values, float least, int64_t n, int32_t* places) {
  int64_t found = 0, i = 0;
#ifdef __AVX512F__
  const __m512 border = _mm512_set1_ps(least);
  __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; i + 16 <= n; i += 16, place = _mm512_add_epi32(place, _mm512_set1_epi32(16))) {
    const __mmask16 kept = _mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), border, _CMP_NLT_UQ);
    // without a branch, which would be guessed wrong as often as something is kept
    _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi32(kept, place));
    found += __builtin_popcount(kept);
  }
#endif
  for (; i < n; ++i) {
    places[found] = static_cast<int32_t>(i);
    found += !(values[i] < least);
  }
  return found;
}

struct Bound {
  float lower, upper;
};

// What selecting from one row needs; as long as a row.
struct Selection {
  explicit Selection(int64_t d_sae)
      : upper(uninitialised<float>(d_sae)),
        maxima(uninitialised<float>(d_sae)),
        keys(uninitialised<int32_t>(d_sae + 16)),
        places(uninitialised<int32_t>(d_sae + 16)) {}

  std::unique_ptr<float[]> upper, maxima;
  std::unique_ptr<int32_t[]> keys, places;

  // Puts into `places` a superset of the k largest of a row of which bounds are known; returns its size.
  //
  // Two levels: the k-th largest of at least k maxima over groups of lower bounds lies below k values of the row.
  template <class Bounds>
  int64_t candidates(const Bounds& bounds, int64_t d_sae, int64_t k) {
    const int64_t groups = std::min((4 * k + 15) / 16 * 16, d_sae), members = d_sae / groups;
    float *RESTRICT high = upper.get(), *RESTRICT most = maxima.get();
    std::fill(most, most + groups, -INFINITE);
    for (int64_t member = 0; member < members; ++member)
      for (int64_t group = 0; group < groups; ++group) {
        const Bound bound = bounds(member * groups + group);
        high[member * groups + group] = bound.upper;
        // a bound that is NaN raises no maximum
        most[group] = bound.lower > most[group] ? bound.lower : most[group];
      }
    for (int64_t f = members * groups; f < d_sae; ++f) high[f] = bounds(f).upper;
    for (int64_t group = 0; group < groups; ++group) keys[group] = key_of(most[group]);
    return not_below(high, number_of(kth_largest(keys.get(), groups, k)), d_sae, places.get());
  }
};

// Writes the k largest of n values, or of their sizes, latents rising as they come; of equal ones the first.
void keep_largest(const float* values, const int32_t* latents, int64_t n, int64_t k, bool absolute, int32_t* keys,
                  int64_t* kept_latents, float* kept_values) {
  for (int64_t i = 0; i < n; ++i) keys[i] = key_of(absolute ? std::fabs(values[i]) : values[i]);
  const int32_t least = kth_largest(keys, n, k);
  int64_t equal = k;
  for (int64_t i = 0; i < n; ++i) equal -= keys[i] > least;
  for (int64_t i = 0, kept = 0; kept < k; ++i) {
    if (keys[i] < least || (keys[i] == least && equal-- <= 0)) continue;
    kept_latents[kept] = latents[i];
    kept_values[kept++] = values[i];
  }
}

template <class Number, class Read>
void topk_of_rows(const Number* z, const float* bias, int64_t rows, int64_t d_sae, int64_t k, bool absolute, int64_t* latents,
                  float* values, int64_t threads, const Read& read) {
  in_parallel(ranges(rows, threads), [&](int64_t first, int64_t last, size_t) {
    Selection selection(d_sae);
    auto found = uninitialised<float>(d_sae);
    for (int64_t row = first; row < last; ++row) {
      const Number* RESTRICT line = z + row * d_sae;
      const auto both = [&](int64_t f) {
        const float value = read(line[f]) + bias[f], ranked = absolute ? std::fabs(value) : value;
        return Bound{ranked, ranked};
      };
      const int64_t n = selection.candidates(both, d_sae, k);
      const int32_t* places = selection.places.get();
      for (int64_t i = 0; i < n; ++i) found[i] = read(line[places[i]]) + bias[places[i]];
      keep_largest(found.get(), places, n, k, absolute, selection.keys.get(), latents + row * k, values + row * k);
    }
  });
}

// ---- gradients ----

// Of a latent-major matrix: row f is Σ coefficient · table[row] over the entries of latent f, and extra[slots[f]] on top; or given whole.
struct Gradient {
  const int64_t* offsets;
  const int64_t* rows;
  const float* coefficients;
  const float* table;
  const int32_t* slots;
  const float* extra;
  const float* whole;
};

void write_gradient(const Gradient& gradient, int64_t latent, int64_t d_model, float* sum) {
  if (gradient.whole) {
    std::memcpy(sum, gradient.whole + latent * d_model, d_model * sizeof(float));
    return;
  }
  const int32_t slot = gradient.slots ? gradient.slots[latent] : -1;
  if (slot >= 0) std::memcpy(sum, gradient.extra + slot * d_model, d_model * sizeof(float));
  else std::memset(sum, 0, d_model * sizeof(float));
  add_rows(
      sum, gradient.offsets[latent], gradient.offsets[latent + 1],
      [&](int64_t j) { return gradient.table + gradient.rows[j] * d_model; },
      [&](int64_t j) { return gradient.coefficients[j]; }, d_model);
}

// Ranges of latents that take about equally long: Adam on a latent costs what three of its entries do.
std::vector<int64_t> ranges_of_latents(const Gradient& gradient, int64_t d_sae, int64_t threads) {
  if (gradient.whole) return ranges(d_sae, threads);
  return ranges(d_sae, threads, [&](int64_t f) { return 3 * f + gradient.offsets[f]; });
}

struct Step {
  float size;    // learning rate / (1 − β1^count)
  float root;    // 1 / √(1 − β2^count)
  float beta1, beta2, eps, shrink;
  int32_t unit_rows, project;
};

// What rounding a row to bfloat16 does, summed up.
struct Rounding {
  float squares = 0;  // of the numbers
  float lost = 0;     // of what rounding takes away

  void take(float number, uint16_t* rounded) {
    *rounded = to_bf16(number);
    const float difference = number - from_bf16(*rounded);
    squares += number * number;
    lost += difference * difference;
  }

  // ‖row‖ and ‖row − rounded‖, both at least: a sum of n squares is off by less than n 2⁻²³ of itself, and squares that vanish add less
  // than the second term.
  void bounds(int64_t n, float* size, float* error) const {
    const float slack = 1 + n * 0x1p-23f;
    *size = std::sqrt(squares) * slack + 1e-19f;
    *error = std::sqrt(lost) * slack + 1e-19f;
  }
};

Rounding round_row(const float* RESTRICT row, int64_t n, uint16_t* RESTRICT rounded) {
  Rounding all;
  for (int64_t i = 0; i < n; ++i) all.take(row[i], rounded + i);
  return all;
}

template <bool ROUNDS>
Rounding adam_on_row(float* RESTRICT weights, float* RESTRICT first, float* RESTRICT second, const float* RESTRICT gradient,
                     uint16_t* RESTRICT rounded, int64_t n, const Step& step) {
  float along = 0;
  if (step.project) along = dot(gradient, weights, n) / std::max(dot(weights, weights, n), 1e-24f);
  const float rest1 = 1 - step.beta1, rest2 = 1 - step.beta2;
  Rounding all;
  for (int64_t i = 0; i < n; ++i) {
    const float g = step.shrink * (gradient[i] - along * weights[i]);
    const float m = step.beta1 * first[i] + rest1 * g;
    const float v = step.beta2 * second[i] + rest2 * g * g;
    const float weight = weights[i] - step.size * m / (std::sqrt(v) * step.root + step.eps);
    first[i] = m;
    second[i] = v;
    weights[i] = weight;
    if constexpr (ROUNDS) all.take(weight, rounded + i);
    else all.squares += weight * weight;
  }
  if (!step.unit_rows) return all;
  const float inverse = 1 / std::max(std::sqrt(all.squares), 1e-12f);
  for (int64_t i = 0; i < n; ++i) weights[i] *= inverse;
  return ROUNDS ? round_row(weights, n, rounded) : all;
}

}  // namespace

extern "C" {

// Digest of the source this was compiled from.
const char* sae_source() { return SAE_SOURCE; }

// Instruction sets of this machine: 1 for AVX2, 2 for AVX-512 as well, 4 for products of bfloat16.
int32_t sae_features() {
  int32_t found = 0;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const auto has = [](int there, int32_t bit) { return there ? bit : 0; };
  found |= has(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                   __builtin_cpu_supports("bmi2"),
               1);
  found |= has(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
               2);
  found |= has(__builtin_cpu_supports("avx512bf16"), 4);
#endif
  return found;
}

// Asks for large pages under a buffer: rows are then found without a walk through page tables. No more than a hint.
void sae_large_pages(void* buffer, int64_t bytes) {
#ifdef __linux__
  const uintptr_t page = 4096, start = (reinterpret_cast<uintptr_t>(buffer) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(buffer) + bytes) / page * page;
  if (end <= start) return;
  madvise(reinterpret_cast<void*>(start), end - start, 14);  // MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(start), end - start, 25);  // MADV_COLLAPSE, of pages that are there already
#else
  (void)buffer, (void)bytes;
#endif
}

// Rounds rows to bfloat16, with their norms and the norms of what rounding takes away.
int32_t sae_round(const float* rows, int64_t count, int64_t d_model, uint16_t* rounded, float* sizes, float* errors, int64_t threads) {
  return status_of([&] {
    in_parallel(ranges(count, threads), [&](int64_t first, int64_t last, size_t) {
      for (int64_t row = first; row < last; ++row)
        round_row(rows + row * d_model, d_model, rounded + row * d_model).bounds(d_model, sizes + row, errors + row);
    });
    return 0;
  });
}

// The k largest z + bias of each row, or of their sizes.
int32_t sae_topk(const float* z, const float* bias, int64_t rows, int64_t d_sae, int64_t k, int32_t absolute, int64_t* latents,
                 float* values, int64_t threads) {
  return status_of([&] {
    topk_of_rows(z, bias, rows, d_sae, k, absolute, latents, values, threads, [](float number) { return number; });
    return 0;
  });
}

int32_t sae_topk_bf16(const uint16_t* z, const float* bias, int64_t rows, int64_t d_sae, int64_t k, int32_t absolute,
                      int64_t* latents, float* values, int64_t threads) {
  return status_of([&] {
    topk_of_rows(z, bias, rows, d_sae, k, absolute, latents, values, threads,
                 [](uint16_t number) { return from_bf16(number); });
    return 0;
  });
}

// A factor of a product of which bfloat16 copies were multiplied: the numbers themselves, and the norms that `sae_round` gives.
struct Factor {
  const float* rows;
  const float* sizes;
  const float* errors;
};

// As sae_topk with z = x · Wᵀ in float32, found from the product of the rounded factors: latents that may be among the k largest by
// certain bounds are multiplied again in float32. TOO_MANY if there are more than `limit` of them in all.
int32_t sae_topk_certain(const uint16_t* product, const float* bias, const Factor* x, const Factor* weights, int64_t rows,
                         int64_t d_sae, int64_t d_model, int64_t k, int32_t absolute, int64_t limit, int64_t* latents,
                         float* values, int64_t threads) {
  return status_of([&] {
    const std::vector<int64_t> borders = ranges(rows, threads);
    std::vector<std::vector<int32_t>> found(borders.size() - 1);
    auto counts = uninitialised<int64_t>(rows);
    // With u = 2⁻²⁴: a float32 sum of d products is off by at most 1.01 d u ‖x‖ ‖w‖; both the rounded and the exact one are such.
    const float sums = 2.05f * (d_model + 16) * 0x1p-24f, *RESTRICT sizes = weights->sizes, *RESTRICT errors = weights->errors;
    in_parallel(borders, [&](int64_t first, int64_t last, size_t range) {
      Selection selection(d_sae);
      for (int64_t row = first; row < last; ++row) {
        const uint16_t* RESTRICT line = product + row * d_sae;
        // ⟨x, w⟩ − ⟨x̃, w̃⟩ = ⟨x − x̃, w⟩ + ⟨x̃, w − w̃⟩
        const float of_size = (x->errors[row] + sums * x->sizes[row]) * (1 + 0x1p-16f);
        const float of_error = (x->sizes[row] + x->errors[row]) * (1 + 0x1p-16f);
        const auto bounds = [&](int64_t f) {
          const float z = from_bf16(line[f]), value = z + bias[f], middle = absolute ? std::fabs(value) : value;
          // the product was rounded to bfloat16, to 2⁻⁸ of itself; adding the bias twice rounds to 2⁻²⁴ of the sum
          const float off = of_size * sizes[f] + of_error * errors[f] + std::fabs(z) * (0x1p-8f + 0x1p-18f) +
                            std::fabs(value) * 0x1p-21f + 1e-30f;
          return Bound{middle - off, middle + off};
        };
        const int64_t n = selection.candidates(bounds, d_sae, k);
        int32_t *places = selection.places.get(), *keys = selection.keys.get();
        for (int64_t i = 0; i < n; ++i) {
          const float lower = bounds(places[i]).lower;
          keys[i] = lower == lower ? key_of(lower) : key_of(-INFINITE);
        }
        const float least = number_of(kth_largest(keys, n, k));
        int64_t kept = 0;
        for (int64_t i = 0; i < n; ++i) {
          places[kept] = places[i];
          kept += !(selection.upper[places[i]] < least);
        }
        counts[row] = kept;
        found[range].insert(found[range].end(), places, places + kept);
        if (static_cast<int64_t>(found[range].size()) > limit) return;
      }
    });
    int64_t total = 0;
    for (const auto& part : found) total += part.size();
    if (total > limit) return TOO_MANY;
    // some latents at a time, so that their weights come from memory once for many rows
    const int64_t block = std::max<int64_t>(1, (1 << 20) / d_model);
    in_parallel(borders, [&](int64_t first, int64_t last, size_t range) {
      const std::vector<int32_t>& candidates = found[range];
      auto exact = uninitialised<float>(candidates.size());
      auto ends = uninitialised<int64_t>(last - first), done = uninitialised<int64_t>(last - first);
      for (int64_t row = first, end = 0; row < last; ++row) {
        done[row - first] = end;
        ends[row - first] = end += counts[row];
      }
      for (int64_t start = 0; start < d_sae; start += block)
        for (int64_t row = first; row < last; ++row) {
          const int64_t before = done[row - first];
          int64_t after = before;
          while (after < ends[row - first] && candidates[after] < start + block) ++after;
          dot_rows(
              x->rows + row * d_model, before, after, [&](int64_t i) { return weights->rows + candidates[i] * d_model; },
              [&](int64_t i, float sum) { exact[i] = sum + bias[candidates[i]]; }, d_model);
          done[row - first] = after;
        }
      auto keys = uninitialised<int32_t>(d_sae + 16);
      for (int64_t row = first; row < last; ++row) {
        const int64_t start = ends[row - first] - counts[row];
        keep_largest(exact.get() + start, candidates.data() + start, counts[row], k, absolute, keys.get(), latents + row * k,
                     values + row * k);
      }
    });
    return 0;
  });
}

// Counting sort of entries by latent.
int32_t sae_transpose(const int64_t* row_offsets, const int64_t* latents, int64_t rows, int64_t d_sae, int64_t* offsets,
                      int64_t* order, int64_t* sorted_rows, int64_t* sorted_latents) {
  return status_of([&] {
    const int64_t total = row_offsets[rows];
    std::fill(offsets, offsets + d_sae + 1, 0);
    for (int64_t i = 0; i < total; ++i) ++offsets[latents[i] + 1];
    for (int64_t f = 0; f < d_sae; ++f) offsets[f + 1] += offsets[f];
    std::vector<int64_t> next(offsets, offsets + d_sae);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = row_offsets[row]; i < row_offsets[row + 1]; ++i) {
        const int64_t place = next[latents[i]]++;
        order[place] = i;
        sorted_rows[place] = row;
        sorted_latents[place] = latents[i];
      }
    return 0;
  });
}

// error = Σ value · weights[latent] + bias − target, and dots[i] = ⟨error[row], weights[latent]⟩ of entry order[i].
int32_t sae_reconstruct(const int64_t* row_offsets, const int64_t* latents, const float* values, const int64_t* order,
                        const float* weights, const float* bias, const float* target, int64_t rows, int64_t d_model, float* error,
                        float* dots, int64_t threads) {
  return status_of([&] {
    auto by_row = uninitialised<float>(row_offsets[rows]);
    in_parallel(ranges(rows, threads, [&](int64_t row) { return row_offsets[row] + row; }), [&](int64_t first, int64_t last, size_t) {
      for (int64_t row = first; row < last; ++row) {
        const auto decoder_row = [&](int64_t i) { return weights + latents[i] * d_model; };
        float* RESTRICT sum = error + row * d_model;
        const float* RESTRICT wanted = target + row * d_model;
        for (int64_t i = 0; i < d_model; ++i) sum[i] = bias[i] - wanted[i];
        add_rows(sum, row_offsets[row], row_offsets[row + 1], decoder_row, [&](int64_t i) { return values[i]; }, d_model);
        dot_rows(sum, row_offsets[row], row_offsets[row + 1], decoder_row, [&](int64_t i, float found) { by_row[i] = found; }, d_model);
      }
    });
    for (int64_t i = 0; i < row_offsets[rows]; ++i) dots[i] = by_row[order[i]];
    return 0;
  });
}

// Σ of squares of a gradient that is not written out.
int32_t sae_squared_norm(const Gradient* gradient, int64_t d_sae, int64_t d_model, double* found, int64_t threads) {
  return status_of([&] {
    auto squares = uninitialised<float>(d_sae);
    in_parallel(ranges_of_latents(*gradient, d_sae, threads), [&](int64_t first, int64_t last, size_t) {
      auto sum = uninitialised<float>(d_model);
      for (int64_t f = first; f < last; ++f) {
        write_gradient(*gradient, f, d_model, sum.get());
        squares[f] = dot(sum.get(), sum.get(), d_model);
      }
    });
    *found = 0;
    for (int64_t f = 0; f < d_sae; ++f) *found += squares[f];
    return 0;
  });
}

// One step of Adam. `rounded`, `sizes` and `errors` follow the weights as in sae_round, or are null.
int32_t sae_adam(const Gradient* gradient, const Step* step, float* weights, float* first_moments, float* second_moments,
                 uint16_t* rounded, float* sizes, float* errors, int64_t d_sae, int64_t d_model, int64_t threads) {
  return status_of([&] {
    // gradients of a few latents, then their steps: gathering rows and streaming weights in turn keeps each at its own speed
    const int64_t block = std::max<int64_t>(1, (1 << 16) / d_model);
    in_parallel(ranges_of_latents(*gradient, d_sae, threads), [&](int64_t first, int64_t last, size_t) {
      auto sums = uninitialised<float>(block * d_model);
      for (int64_t start = first; start < last; start += block) {
        const int64_t end = std::min(start + block, last);
        for (int64_t f = start; f < end; ++f) write_gradient(*gradient, f, d_model, sums.get() + (f - start) * d_model);
        for (int64_t f = start; f < end; ++f) {
          const int64_t at = f * d_model;
          const float* sum = sums.get() + (f - start) * d_model;
          if (rounded) {
            adam_on_row<true>(weights + at, first_moments + at, second_moments + at, sum, rounded + at, d_model, *step)
                .bounds(d_model, sizes + f, errors + f);
          } else {
            adam_on_row<false>(weights + at, first_moments + at, second_moments + at, sum, nullptr, d_model, *step);
          }
        }
      }
    });
    return 0;
  });
}

// How many z of each row exceed their latent's threshold; NaN does.
int32_t sae_count_above(const float* z, const float* threshold, int64_t rows, int64_t d_sae, int64_t* counts, int64_t threads) {
  return status_of([&] {
    in_parallel(ranges(rows, threads), [&](int64_t first, int64_t last, size_t) {
      for (int64_t row = first; row < last; ++row) {
        const float* RESTRICT line = z + row * d_sae;
        int32_t count = 0;
        for (int64_t f = 0; f < d_sae; ++f) count += !(line[f] <= threshold[f]);
        counts[row] = count;
      }
    });
    return 0;
  });
}

// Those entries, row after row; `offsets` is the running sum of their counts.
int32_t sae_above(const float* z, const float* threshold, int64_t rows, int64_t d_sae, const int64_t* offsets, int64_t* latents,
                  float* values, int64_t threads) {
  return status_of([&] {
    in_parallel(ranges(rows, threads), [&](int64_t first, int64_t last, size_t) {
      auto places = uninitialised<int32_t>(d_sae + 16);
      auto sign = uninitialised<float>(d_sae);
      for (int64_t row = first; row < last; ++row) {
        const float* RESTRICT line = z + row * d_sae;
        for (int64_t f = 0; f < d_sae; ++f) sign[f] = line[f] <= threshold[f] ? -1.0f : 1.0f;
        const int64_t n = not_below(sign.get(), 0, d_sae, places.get());
        for (int64_t i = 0; i < n; ++i) {
          latents[offsets[row] + i] = places[i];
          values[offsets[row] + i] = line[places[i]];
        }
      }
    });
    return 0;
  });
}

// The `total` largest z of all rows together, of equal ones the first; NaN is largest.
int32_t sae_batch_topk(const float* z, int64_t rows, int64_t d_sae, int64_t total, int64_t* offsets, int64_t* latents, float* values,
                       int64_t threads) {
  return status_of([&] {
    const std::vector<int64_t> borders = ranges(rows, threads);
    float least = -INFINITE;
    const int64_t groups = d_sae / 8;
    if (rows * groups >= total) {
      auto maxima = uninitialised<int32_t>(rows * groups + 16);
      in_parallel(borders, [&](int64_t first, int64_t last, size_t) {
        auto most = uninitialised<float>(groups);
        for (int64_t row = first; row < last; ++row) {
          const float* RESTRICT line = z + row * d_sae;
          std::fill(most.get(), most.get() + groups, -INFINITE);
          for (int64_t member = 0; member < 8; ++member)
            for (int64_t group = 0; group < groups; ++group) {
              const float value = line[member * groups + group];
              most[group] = value > most[group] ? value : most[group];
            }
          for (int64_t group = 0; group < groups; ++group) maxima[row * groups + group] = key_of(most[group]);
        }
      });
      least = number_of(kth_largest(maxima.get(), rows * groups, total));
    }
    std::vector<std::vector<int32_t>> found(borders.size() - 1);
    in_parallel(borders, [&](int64_t first, int64_t last, size_t range) {
      auto places = uninitialised<int32_t>(d_sae + 16);
      for (int64_t row = first; row < last; ++row) {
        const int64_t n = not_below(z + row * d_sae, least, d_sae, places.get());
        found[range].insert(found[range].end(), places.get(), places.get() + n);
        offsets[row + 1] = n;
      }
    });
    std::vector<int32_t> candidates, keys;
    for (const auto& part : found) candidates.insert(candidates.end(), part.begin(), part.end());
    keys.reserve(candidates.size() + 16);
    for (int64_t row = 0, i = 0; row < rows; ++row)
      for (int64_t n = offsets[row + 1]; n > 0; --n) keys.push_back(key_of(z[row * d_sae + candidates[i++]]));
    const int64_t count = keys.size();
    keys.resize(count + 16);
    const int32_t smallest = kth_largest(keys.data(), count, total);
    int64_t equal = total, kept = 0, i = 0;
    for (int64_t j = 0; j < count; ++j) equal -= keys[j] > smallest;
    offsets[0] = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t n = offsets[row + 1]; n > 0; --n, ++i) {
        if (keys[i] < smallest || (keys[i] == smallest && equal-- <= 0)) continue;
        latents[kept] = candidates[i];
        values[kept++] = z[row * d_sae + candidates[i]];
      }
      offsets[row + 1] = kept;
    }
    return 0;
  });
}

}  // extern "C"
