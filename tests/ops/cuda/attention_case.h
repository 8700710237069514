// Cases of attention for the GPU tests: inputs that depend on (what, sequence, position) alone, the truth by
// ops/ref, the cache as earlier steps left it with NaN in every slot that was never written, and a run on the
// device.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "ops/core/half.h"
#include "ops/core/head_mix.h"
#include "ops/cuda/attention.h"
#include "ops/ref/attention.h"
#include "ops/ref/rows.h"
#include "tests/ops/cuda/gpu_support.h"

namespace tandem::cuda {

inline constexpr double kEps = 1e-5;
inline constexpr CudaKvType kHalvesAndCodes[] = {CudaKvType::f16, CudaKvType::q8_0, CudaKvType::q4_0};
inline constexpr CudaKvType kCodes[] = {CudaKvType::q8_0, CudaKvType::q4_0};

/// One sequence's part of a step: its new tokens begin at `first`.
struct Part {
  int32_t first = 0;
  int32_t n = 1;
};

struct Case {
  int32_t head_dim = 128;
  std::vector<int32_t> kv_of_head = {0, 0, 0, 0, 1, 1, 1, 1};
  std::vector<Part> parts = {{511, 1}};
  CudaKvType type = CudaKvType::f16;
  int64_t window = 0;
  int32_t n_rot = 0;  ///< 0: head_dim
  RopeStyle style = RopeStyle::adjacent;
  bool norm = false;
  bool together = true;       ///< append_attend(), where each part has one token
  bool prompts = false;       ///< attend() knows the parts, and takes those of several tokens at once
  std::vector<int32_t> cuts;  ///< with `prompts` and one part: so many of its tokens go together each
  bool rows = false;          ///< floats instead of records
  float q_size = 1.0F;
  float k_size = 1.0F;
  float v_size = 1.0F;
  uint32_t page_seed = 1;
  ActForm form = ActForm::f32;
  int64_t first_col = 0;  ///< of the output
  int64_t max_positions = 32768;
  int shared_bytes = 0;  ///< of a block; 0: what the device has
  bool fixed_cuts = false;
  bool mixes = false;  ///< the cache keeps heads mixed

  int32_t n_kv() const { return kv_of_head.empty() ? 0 : kv_of_head.back() + 1; }
  int64_t n_heads() const { return static_cast<int64_t>(kv_of_head.size()); }
  int64_t n_tokens() const {
    return std::accumulate(parts.begin(), parts.end(), int64_t{0}, [](int64_t n, Part p) { return n + p.n; });
  }
  int32_t rotated() const { return n_rot == 0 ? head_dim : n_rot; }
  Range cols() const { return {first_col, first_col + n_heads() * head_dim}; }
};

/// Values that depend on (what, position) alone, so that a sequence is the same alone and among others. A
/// sequence is known by its first new position.
inline std::vector<float> row_of(uint32_t what, uint32_t sequence, int32_t position, int64_t n, float size) {
  std::mt19937 random(what * 7919U + sequence * 104729U + static_cast<uint32_t>(position) * 31U);
  std::normal_distribution<float> normal(0.05F, 1.0F);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& x : row) x = normal(random) * size;
  return row;
}
enum : uint32_t { kQuery = 1, kKey = 2, kValue = 3, kQueryNorm = 4, kKeyNorm = 5 };

inline std::vector<double> frequencies(int32_t n_rot) {
  std::vector<double> f;
  for (int32_t i = 0; i < n_rot / 2; ++i) f.push_back(std::pow(10000.0, -2.0 * i / n_rot));
  return f;
}

inline float value_of_largest_magnitude(const float* x, size_t n) {
  return *std::max_element(x, x + n, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

/// The codes of a group of at most 32 values, and their scale: a half.
inline std::vector<int> codes_of(const float* x, size_t n, CudaKvType type, uint16_t& scale) {
  const float top = value_of_largest_magnitude(x, n);
  const float d = type == CudaKvType::q8_0 ? std::fabs(top) / 127.0F : top / -8.0F;
  scale = float_to_f16_bits(d);
  std::vector<int> codes;
  for (size_t i = 0; i < n; ++i) {
    if (type == CudaKvType::q8_0) {
      codes.push_back(static_cast<int>(std::lrintf(x[i] * (127.0F / std::fabs(top)))));
    } else {
      const float inverse = 1.0F / d;
      codes.push_back(std::min(15, static_cast<int>(std::floor(x[i] * inverse + 8.5F))) - 8);
    }
  }
  return codes;
}

/// Puts a code to element `i` of a row. q4_0: byte j of four holds element j and element j + 4 of eight.
inline void put_code(std::byte* row, CudaKvType type, size_t i, int code) {
  if (type == CudaKvType::q8_0) {
    row[i] = static_cast<std::byte>(code);
    return;
  }
  std::byte& pair = row[i / 8 * 4 + i % 4];
  const auto nibble = static_cast<std::byte>(code + 8);
  pair = i % 8 < 4 ? (pair & std::byte{0xf0}) | nibble : (pair & std::byte{0x0f}) | nibble << 4;
}

/// A row of codes as the cache keeps it. plane: where it is stored too, or null
inline std::vector<double> rounded_to_codes(const std::vector<float>& row, CudaKvType type, std::byte* plane,
                                            size_t slot) {
  std::vector<double> out;
  const size_t groups = (row.size() + 31) / 32;
  const auto row_bytes = static_cast<size_t>(kv_row_bytes(type, static_cast<int>(row.size())));
  for (size_t g = 0; g < groups; ++g) {
    uint16_t d = 0;
    const std::vector<int> codes =
        codes_of(row.data() + 32 * g, std::min<size_t>(32, row.size() - 32 * g), type, d);
    if (plane != nullptr) std::memcpy(plane + kPageTokens * row_bytes + 2 * (slot * groups + g), &d, 2);
    for (size_t i = 0; i < codes.size(); ++i) {
      if (plane != nullptr) put_code(plane + slot * row_bytes, type, 32 * g + i, codes[i]);
      out.push_back(static_cast<double>(f16_bits_to_float(d)) * codes[i]);
    }
  }
  return out;
}

/// A row as the cache keeps it. plane: where it is stored too, or null
inline std::vector<double> rounded(const std::vector<double>& row, CudaKvType type,
                                   std::byte* plane = nullptr, int slot = 0) {
  const std::vector<float> floats(row.begin(), row.end());
  const auto at = static_cast<size_t>(slot);
  if (is_coded(type)) return rounded_to_codes(floats, type, plane, at);
  std::vector<uint16_t> halves;
  for (const float x : floats) halves.push_back(float_to_f16_bits(x));
  const bool is_half = type == CudaKvType::f16;
  const void* stored = is_half ? static_cast<const void*>(halves.data()) : floats.data();
  const size_t bytes = row.size() * (is_half ? 2 : 4);
  if (plane != nullptr) std::memcpy(plane + at * bytes, stored, bytes);
  if (!is_half) return {floats.begin(), floats.end()};
  std::vector<double> out;
  for (const uint16_t h : halves) out.push_back(static_cast<double>(f16_bits_to_float(h)));
  return out;
}

/// The host's side of a case: inputs, the cache as earlier steps left it, and the truth.
struct Host {
  std::vector<float> q, k, v, q_norm, k_norm, rope;
  std::vector<int32_t> positions, sequences, pages;
  int64_t pages_stride = 0;
  int64_t n_pages = 0;
  std::vector<std::byte> image;    // of layer 1
  std::vector<double> truth;       // (n_tokens, n_heads, head_dim)
  std::vector<double> appended_k;  // (n_tokens, n_kv, head_dim) as the cache keeps them
  std::vector<double> appended_v;
};

inline std::vector<double> slice(const std::vector<float>& row, int64_t head, int64_t dim) {
  return {row.begin() + head * dim, row.begin() + (head + 1) * dim};
}

inline std::vector<double> turned(const Case& c, std::vector<double> head, const std::vector<float>& norm,
                                  int32_t position) {
  if (c.norm) head = ref::rms_norm(head, norm, kEps);
  return ref::rope(head, position, frequencies(c.rotated()), 1.0, c.style == RopeStyle::halves);
}

/// The Walsh-Hadamard transform of each mix_width() elements, times `factor`; as it is where nothing is
/// mixed.
inline std::vector<double> mixed(const Case& c, const std::vector<double>& head, double factor) {
  if (!c.mixes) return head;
  return ref::walsh_hadamard(head, static_cast<size_t>(mix_width(c.head_dim)), factor);
}

inline void deal_pages(const Case& c, Host& host) {
  int32_t longest = 0;
  for (const Part& part : c.parts) longest = std::max(longest, part.first + part.n);
  host.pages_stride = ceil_div(longest, kPageTokens) + 1;
  host.n_pages = static_cast<int64_t>(c.parts.size()) * host.pages_stride + 3;
  std::vector<int32_t> ids(static_cast<size_t>(host.n_pages));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(c.page_seed));
  host.pages.assign(c.parts.size() * static_cast<size_t>(host.pages_stride), -1000000);
  size_t next = 0;
  for (size_t s = 0; s < c.parts.size(); ++s) {
    for (int64_t i = 0; i < ceil_div(c.parts[s].first + c.parts[s].n, kPageTokens); ++i)
      host.pages[s * static_cast<size_t>(host.pages_stride) + static_cast<size_t>(i)] = ids[next++];
  }
}

inline void append(std::vector<float>& to, const std::vector<float>& row) {
  to.insert(to.end(), row.begin(), row.end());
}

inline void make_tokens(const Case& c, Host& host, size_t s) {
  const Part& part = c.parts[s];
  const auto id = static_cast<uint32_t>(part.first);
  for (int32_t p = part.first; p < part.first + part.n; ++p) {
    append(host.q, row_of(kQuery, id, p, c.n_heads() * c.head_dim, c.q_size));
    append(host.k, row_of(kKey, id, p, c.n_kv() * c.head_dim, c.k_size));
    append(host.v, row_of(kValue, id, p, c.n_kv() * c.head_dim, c.v_size));
    host.positions.push_back(p);
    host.sequences.push_back(static_cast<int32_t>(s));
    for (const double f : frequencies(c.rotated())) {
      host.rope.push_back(static_cast<float>(std::cos(p * f)));
      host.rope.push_back(static_cast<float>(std::sin(p * f)));
    }
  }
}

/// The truth for one sequence and KV head, and the image of what earlier steps appended.
inline void make_head(const Case& c, const KvView& view, Host& host, size_t s, int64_t first_token,
                      int32_t kv) {
  const Part& part = c.parts[s];
  const auto id = static_cast<uint32_t>(part.first);
  std::vector<double> keys;
  std::vector<double> values;
  for (int32_t p = 0; p < part.first + part.n; ++p) {
    const bool old = p < part.first;
    const int64_t page =
        host.pages[s * static_cast<size_t>(host.pages_stride) + static_cast<size_t>(p / kPageTokens)];
    const int slot = p % kPageTokens;
    auto key = slice(row_of(kKey, id, p, c.n_kv() * c.head_dim, c.k_size), kv, c.head_dim);
    if (!old) key = turned(c, key, host.k_norm, p);
    const double cached = cached_mix(mix_width(c.head_dim));
    key = rounded(mixed(c, key, cached), c.type, old ? view.keys(page, kv) : nullptr, slot);
    const auto plain = slice(row_of(kValue, id, p, c.n_kv() * c.head_dim, c.v_size), kv, c.head_dim);
    const auto value = rounded(mixed(c, plain, cached), c.type, old ? view.values(page, kv) : nullptr, slot);
    keys.insert(keys.end(), key.begin(), key.end());
    values.insert(values.end(), value.begin(), value.end());
    if (old) continue;
    const int64_t at = ((first_token + p - part.first) * c.n_kv() + kv) * c.head_dim;
    std::copy(key.begin(), key.end(), host.appended_k.begin() + at);
    std::copy(value.begin(), value.end(), host.appended_v.begin() + at);
  }
  for (int32_t p = part.first; p < part.first + part.n; ++p) {
    const int64_t token = first_token + p - part.first;
    const std::vector<float> q = row_of(kQuery, id, p, c.n_heads() * c.head_dim, c.q_size);
    for (int64_t h = 0; h < c.n_heads(); ++h) {
      if (c.kv_of_head[static_cast<size_t>(h)] != kv) continue;
      const double read = read_mix(mix_width(c.head_dim));
      const auto head = mixed(c, turned(c, slice(q, h, c.head_dim), host.q_norm, p), read);
      const auto sums = ref::attend({head, keys, values, c.head_dim, c.head_dim}, p, c.window,
                                    1.0 / std::sqrt(c.head_dim), 0.0);
      const auto out = mixed(c, sums, read);
      std::copy(out.begin(), out.end(), host.truth.begin() + (token * c.n_heads() + h) * c.head_dim);
    }
  }
}

inline Host make_host(const Case& c) {
  Host host;
  deal_pages(c, host);
  host.q_norm = row_of(kQueryNorm, 0, 0, c.head_dim, 1.0F);
  host.k_norm = row_of(kKeyNorm, 0, 0, c.head_dim, 1.0F);
  const CudaKvCache shape(1, c.n_kv(), c.head_dim, c.type, host.n_pages);
  KvView view = shape.layer(0);
  host.image.assign(shape.bytes(), std::byte{0xff});  // NaN in every type
  view.data = host.image.data();
  host.truth.resize(static_cast<size_t>(c.n_tokens() * c.n_heads() * c.head_dim));
  host.appended_k.resize(static_cast<size_t>(c.n_tokens() * c.n_kv() * c.head_dim));
  host.appended_v.resize(host.appended_k.size());
  int64_t token = 0;
  for (size_t s = 0; s < c.parts.size(); ++s) {
    make_tokens(c, host, s);
    for (int32_t kv = 0; kv < c.n_kv(); ++kv) make_head(c, view, host, s, token, kv);
    token += c.parts[s].n;
  }
  return host;
}

struct Outcome {
  std::vector<float> out;          // (n_tokens, n_heads * head_dim)
  std::vector<std::byte> records;  // (n_tokens, token_bytes)
  bool padding_is_zero = true;
  std::vector<std::byte> image;  // of the layer, afterwards
  bool other_layers_untouched = true;
  uint32_t not_finite = 0;
};

inline std::vector<AttentionPart> cut_parts(const Case& c) {
  std::vector<AttentionPart> parts;
  int32_t position = c.parts.at(0).first;
  for (const int32_t n : c.cuts) {
    parts.push_back({n, position, true});
    position += n;
  }
  return parts;
}

/// A case on the device.
class DeviceRun {
 public:
  DeviceRun(const Case& c, const Host& host)
      : c_(c),
        cache_(3, c.n_kv(), c.head_dim, c.type, host.n_pages),
        scratch_(AttentionShape{c.kv_of_head, c.n_kv(), c.head_dim, c.n_tokens() + 5, c.max_positions,
                                c.shared_bytes, c.fixed_cuts}),
        out_(c.n_tokens(), c.cols(), c.form),
        q_(to_device(host.q)),
        k_(to_device(host.k)),
        v_(to_device(host.v)),
        q_norm_(to_device(host.q_norm)),
        k_norm_(to_device(host.k_norm)),
        rope_(to_device(host.rope)),
        ints_{to_device(host.positions), to_device(host.sequences), to_device(host.pages)},
        flag_(to_device(std::vector<uint32_t>{0})) {
    check(cudaMemset(cache_.raw(), 0xff, cache_.bytes()));
    check(cudaMemcpy(cache_.layer(1).data, host.image.data(), host.image.size(), cudaMemcpyHostToDevice));
    what_.step.positions = ints_[0].data();
    what_.step.sequences = ints_[1].data();
    what_.step.pages = ints_[2].data();
    what_.step.pages_stride = host.pages_stride;
    what_.step.rope[1] = rope_.data();
    what_.step.n_rot[1] = c.rotated();
    what_.cache = cache_.layer(1);
    what_.q = q_.data();
    what_.k = k_.data();
    what_.v = v_.data();
    what_.q_stride = c.n_heads() * c.head_dim;
    what_.k_stride = what_.v_stride = int64_t{c.n_kv()} * c.head_dim;
    what_.q_norm = c.norm ? q_norm_.data() : nullptr;
    what_.k_norm = c.norm ? k_norm_.data() : nullptr;
    what_.norm_eps = static_cast<float>(kEps);
    what_.rope = 1;
    what_.style = c.style;
    what_.mixes = c.mixes;
    what_.scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
    what_.window = c.window;
    what_.not_finite = flag_.data();
    what_.scratch = &scratch_;
    what_.out = &out_;
    for (const Part& part : c.parts) parts_.push_back({part.n, part.first, part.n > 1});
    if (!c.cuts.empty()) parts_ = cut_parts(c);
    if (c.prompts) what_.parts = parts_;
    if (c.rows) {
      rows_ = to_device(std::vector<float>(static_cast<size_t>(c.n_tokens() * c.cols().size()), NAN));
      what_.rows = rows_.data();
    }
    check(cudaDeviceSynchronize());  // what was copied and set is not ordered with the run's stream
  }

  void launch() {
    if (c_.together) {
      append_attend(what_, c_.n_tokens(), true, stream_.get());
    } else {
      rope_append(what_, c_.n_tokens(), true, stream_.get());
      attend(what_, c_.n_tokens(), true, stream_.get());
    }
  }

  Outcome outcome() {
    stream_.synchronize();
    Outcome got;
    got.records = to_host(out_.data(), static_cast<size_t>(c_.n_tokens() * out_.token_bytes()));
    const Decoded decoded = decode_own(out_, c_.n_tokens());
    got.out = decoded.meaning;
    got.padding_is_zero = decoded.padding_is_zero;
    if (c_.rows) {  // and the records are left alone
      got.padding_is_zero &= std::all_of(got.out.begin(), got.out.end(), [](float x) { return x == 0.0F; });
      got.out = to_host(rows_.data(), rows_.size());
    }
    const auto layer = static_cast<size_t>(cache_.layer(1).data - cache_.layer(0).data);
    const std::vector<std::byte> raw = to_host(cache_.raw(), cache_.bytes());
    for (size_t i = 0; i < raw.size(); ++i) {
      if (i / layer != 1) got.other_layers_untouched &= raw[i] == std::byte{0xff};
    }
    got.image.assign(raw.begin() + static_cast<std::ptrdiff_t>(layer),
                     raw.begin() + static_cast<std::ptrdiff_t>(2 * layer));
    got.not_finite = to_host(flag_.data(), 1)[0];
    return got;
  }

  const Stream& stream() const { return stream_; }
  CudaKvCache& cache() { return cache_; }
  int32_t* positions() const { return ints_[0].data(); }

 private:
  const Case& c_;
  Stream stream_;
  CudaKvCache cache_;
  AttentionScratch scratch_;
  CudaActivations out_;
  DeviceBuffer<float> q_, k_, v_, q_norm_, k_norm_, rope_, rows_;
  std::vector<AttentionPart> parts_;
  DeviceBuffer<int32_t> ints_[3];
  DeviceBuffer<uint32_t> flag_;
  Attention what_;
};

inline Outcome run(const Case& c, const Host& host) {
  DeviceRun device(c, host);
  device.launch();
  return device.outcome();
}

}  // namespace tandem::cuda
