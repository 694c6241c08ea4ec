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
#ifdef __unix__
#include <dlfcn.h>
#endif

#define RESTRICT __restrict__

namespace {

using std::int32_t;
using std::int64_t;
using std::int8_t;
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

// Borders of one range of items per thread, of about equal weight, if those before item i weigh weight(i). Some may be empty: a team
// that is as large every time need not be gathered anew.
template <class Weight>
std::vector<int64_t> ranges(int64_t count, int64_t threads, const Weight& weight) {
  threads = std::max<int64_t>(1, threads);
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

// Starts a team of threads on one function: that of GNU OpenMP, if the process has it. Torch computes with this team. Its threads
// wait for work without sleeping, and other threads beside them would share their processors.
using Team = void (*)(void (*work)(void*), void* with, unsigned threads, unsigned flags);

Team team() {
#ifdef __unix__
  static const Team found = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
#else
  return nullptr;
#endif
}

// Ranges that threads of a team take one after another: it may have fewer of them than asked for.
template <class Work>
struct Shared {
  const std::vector<int64_t>& borders;
  const Work& work;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};

  void take() {
    for (size_t range = next++; range + 1 < borders.size(); range = next++) {
      if (borders[range] == borders[range + 1]) continue;
      try {
        work(borders[range], borders[range + 1], range);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
  }
  static void run(void* shared) { static_cast<Shared*>(shared)->take(); }
};

// Calls work(first, last, range) on every range that is not empty, several at a time.
template <class Work>
void in_parallel(const std::vector<int64_t>& borders, const Work& work) {
  Shared<Work> shared{borders, work};
  const size_t threads = borders.size() - 1;
  if (threads > 1 && team()) {
    team()(&Shared<Work>::run, &shared, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
      for (size_t other = 1; other < threads; ++other) others.emplace_back(&Shared<Work>::run, &shared);
    } catch (const std::system_error&) {
      // those that there are do it
    }
    shared.take();
    for (auto& other : others) other.join();
  }
  if (shared.failed) throw std::bad_alloc();
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

// Weights that stay in a cache while rows pass, in numbers.
#ifndef BLOCK
constexpr int64_t BLOCK = 1 << 18;
#endif

// Several rows at once: what they meet is read once for all, and the processor waits for them together.
constexpr int64_t TOGETHER = 8;

// Written out in lanes: a row's dot product is summed in one order, whatever it stands beside. Two sums where there are registers for
// them: an addition need not wait for the one before.
#ifdef __AVX512F__
constexpr int64_t LANES = 16, CHAINS = 2;
#elif defined(__AVX2__)
constexpr int64_t LANES = 8, CHAINS = 1;
#else
constexpr int64_t LANES = 4, CHAINS = 1;
#endif
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

Lanes lanes_of(const float* numbers, int64_t count = LANES) {
  Lanes found = {};
  std::memcpy(&found, numbers, count * sizeof(float));
  return found;
}

template <size_t... I>
void dots_with(const float* RESTRICT a, const float* const* rows, int64_t n, float* found, std::index_sequence<I...>) {
  Lanes sums[CHAINS][sizeof...(I)] = {};
  int64_t i = 0;
  for (; i + CHAINS * LANES <= n; i += CHAINS * LANES)
    for (int64_t chain = 0; chain < CHAINS; ++chain) {
      const int64_t at = i + chain * LANES;
      const Lanes part = lanes_of(a + at);
      ((sums[chain][I] += part * lanes_of(rows[I] + at)), ...);
    }
  for (; i < n; i += LANES) {
    const int64_t count = std::min(LANES, n - i);
    const Lanes part = lanes_of(a + i, count);
    ((sums[0][I] += part * lanes_of(rows[I] + i, count)), ...);
  }
  for (size_t j = 0; j < sizeof...(I); ++j) {
    for (int64_t chain = 1; chain < CHAINS; ++chain) sums[0][j] += sums[chain][j];
    float sum = 0;
    for (int64_t lane = 0; lane < LANES; ++lane) sum += sums[0][j][lane];
    found[j] = sum;
  }
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
    with_count(count, [&](auto indices) { dots_with(a, rows, n, sums, indices); });
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
  float lower, middle, upper;
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
        return Bound{ranked, ranked, ranked};
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

void round_row(const float* RESTRICT row, int64_t n, uint16_t* RESTRICT rounded) {
  for (int64_t i = 0; i < n; ++i) rounded[i] = to_bf16(row[i]);
}

// Rows as whole numbers times one scale each, with norms by which a product of such copies is bounded.
struct Copy {
  int8_t* numbers;
  float* scales;
  float* sizes;   // at least ‖row‖
  float* errors;  // at least ‖row − its copy‖
};

// Norms at least: a sum of n squares is off by less than n 2⁻²³ of itself, each difference by 2⁻²² of its number, and squares that
// vanish add less than the last term. A row that is not finite has bounds that are not, either.
void copy_row(const float* RESTRICT row, int64_t n, const Copy& copy, int64_t at) {
  int32_t largest = 0;  // bits of the largest size, or of NaN, which compares as false below
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, bits_of<int32_t>(row[i]) & 0x7fffffff);
  const float most = bits_of<float>(largest);
  const float scale = most > 1e-30f ? most / 127 : 0, inverse = most > 1e-30f ? 127 / most : 0;
  float squares = 0, lost = 0;
  int8_t* RESTRICT numbers = copy.numbers + at * n;
  for (int64_t i = 0; i < n; ++i) {
    float number = std::rint(row[i] * inverse);
    number = number > -127 ? number : -127;
    number = number < 127 ? number : 127;
    const float difference = row[i] - scale * number;
    numbers[i] = static_cast<int8_t>(static_cast<int32_t>(number));
    squares += row[i] * row[i];
    lost += difference * difference;
  }
  const float slack = 1 + n * 0x1p-23f, size = std::sqrt(squares) * slack + 1e-19f;
  copy.scales[at] = scale;
  copy.sizes[at] = size;
  copy.errors[at] = std::sqrt(lost) * slack + size * 0x1p-22f + 1e-19f;
}

template <bool ROUNDS>
void adam_on_row(float* RESTRICT weights, float* RESTRICT first, float* RESTRICT second, const float* RESTRICT gradient,
                 uint16_t* RESTRICT rounded, int64_t n, const Step& step) {
  float along = 0;
  if (step.project) along = dot(gradient, weights, n) / std::max(dot(weights, weights, n), 1e-24f);
  const float beta1 = step.beta1, beta2 = step.beta2, rest1 = 1 - beta1, rest2 = 1 - beta2;
  const float length = step.size, root = step.root, eps = step.eps, shrink = step.shrink;
  float squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float g = shrink * (gradient[i] - along * weights[i]);
    const float m = beta1 * first[i] + rest1 * g;
    const float v = beta2 * second[i] + rest2 * g * g;
    const float weight = weights[i] - length * m / (std::sqrt(v) * root + eps);
    first[i] = m;
    second[i] = v;
    weights[i] = weight;
    squares += weight * weight;
    if constexpr (ROUNDS) rounded[i] = to_bf16(weight);
  }
  if (step.unit_rows) {
    const float inverse = 1 / std::max(std::sqrt(squares), 1e-12f);
    for (int64_t i = 0; i < n; ++i) weights[i] *= inverse;
    if constexpr (ROUNDS) round_row(weights, n, rounded);
  }
}

// ---- candidates ----

// What is known of x · Wᵀ: scale · scale · product of int8 copies + a part in float32, either of them null.
//
// The float32 part is x · Wᵀ itself, or along · (directions · Wᵀ) where the copies of x are of x − along · directions.
struct Approximation {
  const int32_t* product;
  const float* known;
  const float* along;
  int64_t rank;
  Copy x, weights;
};

// Latents of some rows one after another, rising within a row, with a number for each.
struct Lists {
  std::vector<int32_t> latents;
  std::vector<float> numbers;
  std::vector<int64_t> ends;

  int64_t start(int64_t row) const { return row == 0 ? 0 : ends[row - 1]; }

  // Makes room for `most` more; `close` says how many there are.
  void open(int64_t most) {
    const int64_t needed = (ends.empty() ? 0 : ends.back()) + most;
    if (needed <= static_cast<int64_t>(latents.size())) return;
    latents.resize(2 * needed);
    numbers.resize(2 * needed);
  }
  void close(int64_t count) { ends.push_back((ends.empty() ? 0 : ends.back()) + count); }
};

// Of the rows first … last, the latents that may be among the k largest, by bounds that always hold, and their products in float32.
//
// Multiplied first are those that may reach what the k-th largest seems to be; the k-th largest of the products is what others have
// to reach.
struct Candidates {
  const Approximation& near;
  const float *bias, *x, *weights;
  int64_t d_sae, d_model, k;
  bool absolute;
  int64_t first, last;
  Lists likely = {}, others = {};

  int64_t count() const { return likely.ends.empty() ? 0 : likely.ends.back() + others.ends.back(); }

  void find() {
    if (near.product && near.known) bound<true, true>();
    else if (near.product) bound<true, false>();
    else bound<false, true>();
    multiply(likely);
    auto keys = uninitialised<int32_t>(d_sae + 16);
    int64_t kept = 0;
    for (int64_t row = 0, i = 0; row < last - first; ++row) {
      const int64_t start = likely.start(row), n = likely.ends[row] - start;
      for (int64_t j = 0; j < n; ++j) keys[j] = key_of(absolute ? std::fabs(likely.numbers[start + j]) : likely.numbers[start + j]);
      const float least = number_of(kth_largest(keys.get(), n, k));
      for (; i < others.ends[row]; ++i) {
        others.latents[kept] = others.latents[i];
        kept += !(others.numbers[i] < least);
      }
      others.ends[row] = kept;
    }
  }

  // Puts into `likely` the latents of each row whose upper bound reaches the k-th largest middle, into `others` the rest of those that are
  // not ruled out.
  template <bool PRODUCT, bool KNOWN>
  void bound() {
    Selection selection(d_sae);
    // With u = 2⁻²⁴, a sum of which n roundings meet a term is off by at most 1.01 n u of what its terms are in size. dots_with rounds
    // that often; `along` adds roundings of x − along · directions, of directions · Wᵀ and of their product with it.
    const float own = static_cast<float>(d_model / (LANES * CHAINS) + LANES + CHAINS + near.rank + 20), d = static_cast<float>(d_model);
    for (int64_t row = first; row < last; ++row) {
      float along = 0;
      for (int64_t j = 0; j < near.rank; ++j) along += 1.01f * std::fabs(near.along[row * near.rank + j]);
      const float whole = near.x.sizes[row] + along, other = PRODUCT ? (d + 2 * near.rank) * along : d * whole;
      // ⟨x, w⟩ − ⟨x̃, w̃⟩ = ⟨x − x̃, w⟩ + ⟨x̃, w − w̃⟩, by Cauchy and Schwarz
      const float of_size = ((PRODUCT ? near.x.errors[row] : 0) + 1.05f * 0x1p-24f * (own * whole + other)) * (1 + 0x1p-16f);
      const float of_error = (near.x.sizes[row] + near.x.errors[row]) * (1 + 0x1p-16f), scale = near.x.scales[row];
      const float *RESTRICT scales = near.weights.scales, *RESTRICT sizes = near.weights.sizes, *RESTRICT errors = near.weights.errors;
      const float *RESTRICT known = near.known + (KNOWN ? row * d_sae : 0), *RESTRICT offset = bias;
      const int32_t* RESTRICT product = near.product + (PRODUCT ? row * d_sae : 0);
      const auto bounds = [=](int64_t f) {
        float z = 0, off = of_size * sizes[f];
        if constexpr (PRODUCT) z = scale * scales[f] * static_cast<float>(product[f]), off += of_error * errors[f];
        if constexpr (KNOWN) z += known[f];
        const float value = z + offset[f], middle = absolute ? std::fabs(value) : value;
        // adding the bias twice rounds to 2⁻²⁴ of the sum
        off += std::fabs(value) * 0x1p-21f + 1e-30f;
        return Bound{middle - off, middle, middle + off};
      };
      split(selection, selection.candidates(bounds, d_sae, k), bounds);
    }
  }

  template <class Bounds>
  void split(const Selection& selection, int64_t n, const Bounds& bounds) {
    const int32_t* RESTRICT places = selection.places.get();
    int32_t* RESTRICT keys = selection.keys.get();
    for (int64_t i = 0; i < n; ++i) keys[i] = key_of(bounds(places[i]).middle);
    const float border = number_of(kth_largest(keys, n, k));
    likely.open(n);
    others.open(n);
    const int64_t row = likely.ends.size();
    int32_t *RESTRICT most = likely.latents.data() + likely.start(row), *RESTRICT rest = others.latents.data() + others.start(row);
    float* RESTRICT upper = others.numbers.data() + others.start(row);
    int64_t found = 0, left = 0;
    for (int64_t i = 0; i < n; ++i) {
      // without a branch, which would be guessed wrong
      most[found] = rest[left] = places[i];
      upper[left] = selection.upper[places[i]];
      const bool below = upper[left] < border;
      found += !below;
      left += below;
    }
    likely.close(found);
    others.close(left);
  }

  // Puts products + bias in the place of the numbers; some latents at a time, whose weights come from memory once for many rows.
  void multiply(Lists& lists) const {
    const int64_t block = std::max<int64_t>(1, BLOCK / d_model);
    std::vector<int64_t> done(last - first);
    for (int64_t row = 0; row < last - first; ++row) done[row] = lists.start(row);
    for (int64_t start = 0; start < d_sae; start += block)
      for (int64_t row = 0; row < last - first; ++row) {
        const int64_t before = done[row];
        int64_t after = before;
        while (after < lists.ends[row] && lists.latents[after] < start + block) ++after;
        dot_rows(
            x + (first + row) * d_model, before, after, [&](int64_t i) { return weights + lists.latents[i] * d_model; },
            [&](int64_t i, float sum) { lists.numbers[i] = sum + bias[lists.latents[i]]; }, d_model);
        done[row] = after;
      }
  }

  void keep(int64_t* latents, float* values) {
    multiply(others);
    auto keys = uninitialised<int32_t>(d_sae + 16), places = uninitialised<int32_t>(d_sae);
    auto exact = uninitialised<float>(d_sae);
    for (int64_t row = 0; row < last - first; ++row) {
      int64_t n = 0;
      const auto take = [&](const Lists& lists, int64_t i) { places[n] = lists.latents[i], exact[n++] = lists.numbers[i]; };
      int64_t i = likely.start(row), j = others.start(row);
      while (i < likely.ends[row] && j < others.ends[row])
        likely.latents[i] < others.latents[j] ? take(likely, i++) : take(others, j++);
      while (i < likely.ends[row]) take(likely, i++);
      while (j < others.ends[row]) take(others, j++);
      const int64_t at = (first + row) * k;
      keep_largest(exact.get(), places.get(), n, k, absolute, keys.get(), latents + at, values + at);
    }
  }
};

}  // namespace

extern "C" {

// Digest of the source this was compiled from.
const char* sae_source() { return SAE_SOURCE; }

// Instruction sets of this machine: 1 for AVX2, 2 for AVX-512 as well, 4 for products of int8; 8 if work is
// done by the team of threads that torch has.
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
  found |= has(__builtin_cpu_supports("avx512vnni"), 4);
#endif
  return found | (team() ? 8 : 0);
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

// Rounds rows to bfloat16.
int32_t sae_round(const float* rows, int64_t count, int64_t d_model, uint16_t* rounded, int64_t threads) {
  return status_of([&] {
    in_parallel(ranges(count, threads), [&](int64_t first, int64_t last, size_t) {
      for (int64_t row = first; row < last; ++row) round_row(rows + row * d_model, d_model, rounded + row * d_model);
    });
    return 0;
  });
}

// Copies rows, as above.
int32_t sae_copy(const float* rows, int64_t count, int64_t d_model, const Copy* copy, int64_t threads) {
  return status_of([&] {
    in_parallel(ranges(count, threads), [&](int64_t first, int64_t last, size_t) {
      for (int64_t row = first; row < last; ++row) copy_row(rows + row * d_model, d_model, *copy, row);
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

// As sae_topk with z = ⟨row, weights⟩, each summed in the same order: approximations only say which need not be multiplied.
// `multiplied` says how many are; if it were more than `limit`, the answer is TOO_MANY and nothing is written.
int32_t sae_topk_certain(const Approximation* near, const float* bias, const float* x, const float* weights, int64_t rows,
                         int64_t d_sae, int64_t d_model, int64_t k, int32_t absolute, int64_t limit, int64_t* multiplied,
                         int64_t* latents, float* values, int64_t threads) {
  return status_of([&] {
    const std::vector<int64_t> borders = ranges(rows, threads);
    std::vector<Candidates> found;
    for (size_t range = 0; range + 1 < borders.size(); ++range)
      found.push_back({*near, bias, x, weights, d_sae, d_model, k, absolute != 0, borders[range], borders[range + 1]});
    in_parallel(borders, [&](int64_t, int64_t, size_t range) { found[range].find(); });
    *multiplied = 0;
    for (const auto& part : found) *multiplied += part.count();
    if (*multiplied > limit) return TOO_MANY;
    in_parallel(borders, [&](int64_t, int64_t, size_t range) { found[range].keep(latents, values); });
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

// One step of Adam. `rounded` and `copy` follow the weights as in sae_round and sae_copy, or are null.
int32_t sae_adam(const Gradient* gradient, const Step* step, float* weights, float* first_moments, float* second_moments,
                 uint16_t* rounded, const Copy* copy, int64_t d_sae, int64_t d_model, int64_t threads) {
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
          float *row = weights + at, *first_row = first_moments + at, *second_row = second_moments + at;
          if (rounded) adam_on_row<true>(row, first_row, second_row, sum, rounded + at, d_model, *step);
          else adam_on_row<false>(row, first_row, second_row, sum, nullptr, d_model, *step);
          if (copy) copy_row(row, d_model, *copy, f);
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
