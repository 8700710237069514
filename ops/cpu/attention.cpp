#include "ops/cpu/attention.h"

#include <algorithm>
#include <limits>

#include "ops/core/check.h"
#include "ops/core/range.h"
#include "ops/cpu/kernels/attention_kernels.h"

namespace tandem {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504F;
// Rows (query, head) that share one reading of K and V: enough that reading costs little beside the
// arithmetic, few enough that their accumulators stay in the second-level cache.
constexpr int64_t kTileRows = 48;
// Spans are shared out among threads where their results are no more floats (32 MiB): many tokens deep in a
// context have units enough, and would write and read more than they gain.
constexpr int64_t kMostPartials = int64_t{1} << 23;
// Up to so many rows, several pages are read at once: single tokens.
constexpr int64_t kFewRows = 8;

/// Consecutive positions of one sequence, and the query heads of one KV head (or some of them).
struct Unit {
  int32_t first_token = 0;
  int32_t n_tokens = 0;
  int32_t kv_head = 0;
  int32_t head_begin = 0;
  int32_t n_heads = 0;
  Range spans;             // that any of its tokens sees
  int64_t part_begin = 0;  // index of its first partial row, where spans are shared out
  int64_t n_rows() const { return int64_t{n_tokens} * n_heads; }
};

/// Some spans of a unit: what one thread does at a time.
struct Piece {
  int32_t unit = 0;
  Range spans;
};

/// One thread's memory.
struct Bench {
  std::vector<float> q;          // (kTileRows, k_dim)
  std::vector<float> acc;        // (kTileRows, v_stride) of the span
  std::vector<float> total;      // (kTileRows, v_stride) of the spans before
  std::vector<float> sum;        // (kTileRows, 16)
  std::vector<float> max;        // (kTileRows)
  std::vector<float> total_sum;  // (kTileRows)
  std::vector<float> total_max;  // (kTileRows)
  std::vector<int32_t> begin;    // (kTileRows)
  std::vector<int32_t> end;      // (kTileRows)
};

}  // namespace

struct AttentionScratch::State {
  std::vector<Bench> benches;  // a thread each
  std::vector<Unit> units;
  std::vector<Piece> pieces;
  std::vector<float> part_max;  // (partial rows): a unit's spans × its rows
  std::vector<float> part_sum;  // (partial rows)
  std::vector<float> part_acc;  // (partial rows, v_stride)
};

AttentionScratch::AttentionScratch() : state_(std::make_unique<State>()) {}
AttentionScratch::~AttentionScratch() = default;
AttentionScratch::AttentionScratch(AttentionScratch&&) noexcept = default;
AttentionScratch& AttentionScratch::operator=(AttentionScratch&&) noexcept = default;

namespace {

const AttentionKernels& attention_kernels(Isa isa) {
  return with_isa(isa,
                  [](auto tag) -> const AttentionKernels& { return attention_kernels_of<decltype(tag)>(); });
}

}  // namespace

/// One call of attend().
struct AttentionRun {
  const AttentionArgs& args;
  AttentionScratch::State& state;
  const AttentionKernels& kernels;
  KvLayerShape shape;
  int64_t stride;  // v_stride

  AttentionRun(const AttentionArgs& args_in, AttentionScratch& scratch, Isa isa)
      : args(args_in),
        state(*scratch.state_),
        kernels(attention_kernels(isa)),
        shape(args_in.cache->layer(args_in.layer)),
        stride(v_stride(shape.v_dim)) {}

  int32_t position(int64_t token) const { return args.tokens[static_cast<size_t>(token)].position; }
  int64_t first_visible(int64_t token) const {
    return args.window > 0 ? std::max<int64_t>(0, position(token) - args.window + 1) : 0;
  }

  /// Units of one KV head over all tokens, the last positions (which see most) first.
  void add_units(int32_t kv_head, int32_t head_begin, int32_t head_end) {
    const auto n_tokens = static_cast<int32_t>(args.tokens.size());
    for (int32_t h = head_begin; h < head_end; h += static_cast<int32_t>(kTileRows)) {
      const int32_t n_heads = std::min(head_end - h, static_cast<int32_t>(kTileRows));
      const auto max_tokens = static_cast<int32_t>(kTileRows / n_heads);
      for (int32_t end = n_tokens; end > 0;) {
        int32_t begin = end - 1;
        while (begin > 0 && end - begin < max_tokens && follows(begin)) --begin;
        const Range spans{first_visible(begin) / kSpanTokens, position(end - 1) / kSpanTokens + 1};
        state.units.push_back({begin, end - begin, kv_head, h, n_heads, spans, 0});
        end = begin;
      }
    }
  }

  bool follows(int32_t token) const {
    const AttentionToken& a = args.tokens[static_cast<size_t>(token) - 1];
    const AttentionToken& b = args.tokens[static_cast<size_t>(token)];
    return a.sequence == b.sequence && a.position + 1 == b.position;
  }

  /// Fills units and pieces. True where spans of a unit are shared out, so that partial results must be
  /// merged.
  bool plan(int n_threads) {
    state.units.clear();
    state.pieces.clear();
    const auto n_heads = static_cast<int32_t>(args.kv_of_head.size());
    for (int32_t begin = 0; begin < n_heads;) {
      int32_t end = begin + 1;
      const int32_t kv_head = args.kv_of_head[static_cast<size_t>(begin)];
      while (end < n_heads && args.kv_of_head[static_cast<size_t>(end)] == kv_head) ++end;
      add_units(kv_head, begin, end);
      begin = end;
    }
    const auto n_units = static_cast<int64_t>(state.units.size());
    int64_t n_rows = 0;
    for (const Unit& unit : state.units) n_rows += unit.spans.size() * unit.n_rows();
    const bool may_share = n_threads > 1 && n_units > 0 && n_rows * stride <= kMostPartials;
    const int64_t wanted = may_share ? ceil_div(4 * n_threads, n_units) : 1;
    int64_t n_parts = 0;
    bool shared = false;
    for (int64_t u = 0; u < n_units; ++u) {
      Unit& unit = state.units[static_cast<size_t>(u)];
      const int64_t n_spans = unit.spans.size();
      const int64_t a_piece = ceil_div(n_spans, std::min(wanted, n_spans));
      shared |= a_piece < n_spans;
      for (int64_t s = unit.spans.begin; s < unit.spans.end; s += a_piece) {
        state.pieces.push_back({static_cast<int32_t>(u), {s, std::min(s + a_piece, unit.spans.end)}});
      }
      unit.part_begin = n_parts;
      n_parts += n_spans * unit.n_rows();
    }
    if (shared) {
      state.part_max.resize(static_cast<size_t>(n_parts));
      state.part_sum.resize(static_cast<size_t>(n_parts));
      state.part_acc.resize(static_cast<size_t>(n_parts * stride));
    }
    return shared;
  }

  void size_benches(int n_threads) {
    if (state.benches.size() < static_cast<size_t>(n_threads))
      state.benches.resize(static_cast<size_t>(n_threads));
    const auto grow = [](auto& v, int64_t n) { v.resize(std::max(v.size(), static_cast<size_t>(n))); };
    for (Bench& bench : state.benches) {
      grow(bench.q, kTileRows * shape.k_dim);
      grow(bench.acc, kTileRows * stride);
      grow(bench.total, kTileRows * stride);
      grow(bench.sum, kTileRows * 16);
      for (std::vector<float>* v : {&bench.max, &bench.total_sum, &bench.total_max}) grow(*v, kTileRows);
      for (std::vector<int32_t>* v : {&bench.begin, &bench.end}) grow(*v, kTileRows);
    }
  }

  void load_queries(const Unit& unit, Bench& bench) const {
    const float factor = args.soft_cap > 0.0F ? args.scale / args.soft_cap : args.scale * kLog2E;
    for (int64_t t = 0; t < unit.n_tokens; ++t) {
      const float* q =
          args.q + (unit.first_token + t) * args.q_stride + int64_t{unit.head_begin} * shape.k_dim;
      const int64_t n = int64_t{unit.n_heads} * shape.k_dim;
      kernels.scale(q, n, factor, bench.q.data() + t * n);
    }
  }

  KvPageView page_view(const Unit& unit, int64_t number) const {
    const int32_t sequence = args.tokens[static_cast<size_t>(unit.first_token)].sequence;
    const std::span<const int32_t> pages = args.page_tables[static_cast<size_t>(sequence)];
    return args.cache->view(args.layer, pages[static_cast<size_t>(number)], unit.kv_head);
  }

  /// What the unit's tokens see of page `number`, into bench.begin and bench.end. Returns the tokens that see
  /// some of it; they are adjacent, since both ends of what a token sees move on with its position.
  Range see(const Unit& unit, Bench& bench, int64_t number) const {
    const int64_t base = number * kPageTokens;
    Range tokens{0, 0};
    while (position(unit.first_token + tokens.begin) < base) ++tokens.begin;
    tokens.end = tokens.begin;
    for (; tokens.end < unit.n_tokens; ++tokens.end) {
      const int64_t token = unit.first_token + tokens.end;
      const int64_t first = first_visible(token) - base;
      if (first >= kPageTokens) break;
      const auto begin = static_cast<int32_t>(std::max<int64_t>(first, 0));
      const auto end = static_cast<int32_t>(std::min<int64_t>(position(token) + 1 - base, kPageTokens));
      std::fill_n(bench.begin.begin() + tokens.end * unit.n_heads, unit.n_heads, begin);
      std::fill_n(bench.end.begin() + tokens.end * unit.n_heads, unit.n_heads, end);
    }
    return tokens;
  }

  /// Pages of the unit that every one of its tokens sees in full.
  Range full_pages(const Unit& unit) const {
    const int64_t last = unit.first_token + unit.n_tokens - 1;
    return {ceil_div(first_visible(last), kPageTokens), (position(unit.first_token) + 1) / kPageTokens};
  }

  /// The pages [begin, begin + n_pages) for those of the unit's tokens that see them; `end`: of the span.
  void pages(const Unit& unit, Bench& bench, int64_t begin, int n_pages, int64_t end) const {
    const Range tokens = see(unit, bench, begin);
    const int64_t row = tokens.begin * unit.n_heads;
    AttentionBlock block;
    block.n_pages = n_pages;
    for (int i = 0; i < n_pages; ++i) block.pages[i] = page_view(unit, begin + i);
    // With many rows the arithmetic hides the memory, and fetching would be repeated for every group of them.
    if (unit.n_rows() <= kFewRows && begin + n_pages < end) block.next = page_view(unit, begin + n_pages);
    block.q = bench.q.data() + row * shape.k_dim;
    block.begin = bench.begin.data() + row;
    block.end = bench.end.data() + row;
    block.state = {bench.max.data() + row, bench.sum.data() + row * 16, bench.acc.data() + row * stride};
    block.n_rows = tokens.size() * unit.n_heads;
    block.k_dim = shape.k_dim;
    block.v_stride = stride;
    block.cap_factor = args.soft_cap > 0.0F ? args.soft_cap * kLog2E : 0.0F;
    kernels.block[static_cast<size_t>(args.cache->type())](block);
  }

  /// A span's partial result for all rows of the unit, from nothing.
  void span(const Unit& unit, Bench& bench, int64_t number) const {
    const int64_t n_rows = unit.n_rows();
    std::fill_n(bench.max.begin(), n_rows, kNone);
    std::fill_n(bench.sum.begin(), n_rows * 16, 0.0F);
    std::fill_n(bench.acc.begin(), n_rows * stride, 0.0F);
    constexpr int64_t kSpanPages = kSpanTokens / kPageTokens;
    const int64_t begin = std::max(number * kSpanPages, first_visible(unit.first_token) / kPageTokens);
    const int64_t last_position = position(unit.first_token + unit.n_tokens - 1);
    const int64_t end = std::min((number + 1) * kSpanPages, last_position / kPageTokens + 1);
    const Range full = full_pages(unit);
    const int64_t at_once = unit.n_rows() <= kFewRows ? kBlockPages : 1;
    for (int64_t i = begin; i < end;) {
      const int64_t n_pages = full.contains(i) ? std::min({at_once, full.end - i, end - i}) : 1;
      pages(unit, bench, i, static_cast<int>(n_pages), end);
      i += n_pages;
    }
  }

  void begin_rows(const Unit& unit, Bench& bench) const {
    std::fill_n(bench.total_max.begin(), unit.n_rows(), kNone);
  }

  /// Adds a span's partial rows to the totals. Rows that see nothing of the span are left out.
  void add_part(const Unit& unit, Bench& bench, const float* max, const float* sum, const float* acc) const {
    for (int64_t r = 0; r < unit.n_rows(); ++r) {
      if (max[r] == kNone) continue;
      const auto i = static_cast<size_t>(r);
      if (bench.total_max[i] == kNone) {
        bench.total_max[i] = max[r];
        bench.total_sum[i] = sum[r];
        std::copy_n(acc + r * stride, stride, bench.total.begin() + r * stride);
        continue;
      }
      kernels.merge(&bench.total_max[i], &bench.total_sum[i], bench.total.data() + r * stride, max[r], sum[r],
                    acc + r * stride, stride);
    }
  }

  void finish_rows(const Unit& unit, Bench& bench) const {
    for (int64_t r = 0; r < unit.n_rows(); ++r) {
      const int64_t token = unit.first_token + r / unit.n_heads;
      const int64_t head = unit.head_begin + r % unit.n_heads;
      kernels.scale(bench.total.data() + r * stride, shape.v_dim,
                    1.0F / bench.total_sum[static_cast<size_t>(r)],
                    args.out + token * args.out_stride + head * shape.v_dim);
    }
  }

  /// Lane sums become one sum a row, in place of the row's first lanes: (n_rows).
  void sum_rows(const Unit& unit, float* sums) const {
    for (int64_t r = 0; r < unit.n_rows(); ++r) sums[r] = kernels.sum_lanes(sums + r * 16);
  }

  /// A unit's spans from first to last, to the output.
  void whole(const Piece& piece, Bench& bench) const {
    const Unit& unit = state.units[static_cast<size_t>(piece.unit)];
    load_queries(unit, bench);
    begin_rows(unit, bench);
    for (int64_t s = piece.spans.begin; s < piece.spans.end; ++s) {
      span(unit, bench, s);
      sum_rows(unit, bench.sum.data());
      add_part(unit, bench, bench.max.data(), bench.sum.data(), bench.acc.data());
    }
    finish_rows(unit, bench);
  }

  int64_t part_row(const Unit& unit, int64_t s) const {
    return unit.part_begin + (s - unit.spans.begin) * unit.n_rows();
  }

  /// Some of a unit's spans, to the partial results.
  void part(const Piece& piece, Bench& bench) const {
    const Unit& unit = state.units[static_cast<size_t>(piece.unit)];
    load_queries(unit, bench);
    for (int64_t s = piece.spans.begin; s < piece.spans.end; ++s) {
      span(unit, bench, s);
      sum_rows(unit, bench.sum.data());
      const int64_t row = part_row(unit, s);
      std::copy_n(bench.max.begin(), unit.n_rows(), state.part_max.begin() + row);
      std::copy_n(bench.sum.begin(), unit.n_rows(), state.part_sum.begin() + row);
      std::copy_n(bench.acc.begin(), unit.n_rows() * stride, state.part_acc.begin() + row * stride);
    }
  }

  /// A unit's partial results in the order of spans, to the output.
  void merge(const Unit& unit, Bench& bench) const {
    begin_rows(unit, bench);
    for (int64_t s = unit.spans.begin; s < unit.spans.end; ++s) {
      const int64_t row = part_row(unit, s);
      add_part(unit, bench, state.part_max.data() + row, state.part_sum.data() + row,
               state.part_acc.data() + row * stride);
    }
    finish_rows(unit, bench);
  }
};

void attend(const AttentionArgs& args, AttentionScratch& scratch, ThreadPool& pool, Isa isa) {
  AttentionRun run(args, scratch, isa);
  for (const AttentionToken& token : args.tokens) {
    const size_t n_pages = args.page_tables[static_cast<size_t>(token.sequence)].size();
    require(token.position >= 0 && static_cast<size_t>(token.position / kPageTokens) < n_pages,
            "a token's page is missing from its table", token.position, n_pages);
  }
  const bool shared = run.plan(pool.n_threads());
  run.size_benches(pool.n_threads());
  auto& state = run.state;
  pool.run(static_cast<int64_t>(state.pieces.size()), [&](int64_t i, int thread) {
    const Piece& piece = state.pieces[static_cast<size_t>(i)];
    Bench& bench = state.benches[static_cast<size_t>(thread)];
    shared ? run.part(piece, bench) : run.whole(piece, bench);
  });
  if (!shared) return;
  pool.run(static_cast<int64_t>(state.units.size()), [&](int64_t i, int thread) {
    run.merge(state.units[static_cast<size_t>(i)], state.benches[static_cast<size_t>(thread)]);
  });
}

}  // namespace tandem
