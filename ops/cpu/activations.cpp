#include "ops/cpu/activations.h"

#include <cstdlib>
#include <new>

#include "ops/core/check.h"
#include "ops/cpu/kernels/quantize.h"

namespace tandem {
namespace {

constexpr int64_t kAlignment = 64;

/// Hands out aligned pieces of one allocation; with a null base it only counts.
struct Cutter {
  std::byte* base = nullptr;
  int64_t used = 0;

  template <class T>
  void cut(T*& pointer, int64_t n) {
    pointer = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += round_up(n * static_cast<int64_t>(sizeof(T)), kAlignment);
  }
};

}  // namespace

void Activations::FreeDeleter::operator()(std::byte* p) const {
  std::free(p);
}

void Activations::reshape(int64_t n_tokens, int64_t n_cols, ActForms forms) {
  require(n_tokens >= 0 && n_cols >= 0, "negative shape of activations", n_tokens, n_cols);
  n_tokens_ = n_tokens;
  n_cols_ = n_cols;
  forms_ = forms;
  const size_t needed = cut(nullptr);
  if (needed > capacity_) {
    memory_.reset();
    capacity_ = 0;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, needed)));
    if (memory_ == nullptr) throw std::bad_alloc();
    capacity_ = needed;
  }
  cut(memory_.get());
}

/// Deals `base` out to the forms, in a fixed order; with a null base it only counts the bytes.
size_t Activations::cut(std::byte* base) {
  const int64_t values = n_tokens_ * padded_cols();
  const int64_t groups = n_tokens_ * n_groups();
  Cutter cutter{base, 0};
  const auto cut_plane = [&](Plane& plane, bool wanted) {
    cutter.cut(plane.values, wanted ? values : 0);
    cutter.cut(plane.scales, wanted ? groups : 0);
    cutter.cut(plane.sums, wanted ? groups : 0);
    cutter.cut(plane.first_sums, wanted ? groups : 0);
  };
  cutter.cut(f32_, values);
  cut_plane(q8_, forms_.has(ActForm::q8));
  cut_plane(q15_, forms_.has(ActForm::q15));
  cutter.cut(q15_low_, forms_.has(ActForm::q15) ? values : 0);
  return static_cast<size_t>(cutter.used);
}

size_t Activations::bytes_of(int64_t n_tokens, int64_t n_cols, ActForms forms) {
  Activations shape;
  shape.n_tokens_ = n_tokens;
  shape.n_cols_ = n_cols;
  shape.forms_ = forms;
  return shape.cut(nullptr);
}

int8_t* Activations::high_row(ActForm form, int64_t token) {
  return plane(form).values + token * padded_cols();
}
const int8_t* Activations::high_row(ActForm form, int64_t token) const {
  return plane(form).values + token * padded_cols();
}
int8_t* Activations::low_row(int64_t token) {
  return q15_low_ + token * padded_cols();
}
const int8_t* Activations::low_row(int64_t token) const {
  return q15_low_ + token * padded_cols();
}
float* Activations::scales(ActForm form, int64_t token) {
  return plane(form).scales + token * n_groups();
}
const float* Activations::scales(ActForm form, int64_t token) const {
  return plane(form).scales + token * n_groups();
}
int32_t* Activations::sums(ActForm form, int64_t token) {
  return plane(form).sums + token * n_groups();
}
const int32_t* Activations::sums(ActForm form, int64_t token) const {
  return plane(form).sums + token * n_groups();
}
int32_t* Activations::first_sums(ActForm form, int64_t token) {
  return plane(form).first_sums + token * n_groups();
}
const int32_t* Activations::first_sums(ActForm form, int64_t token) const {
  return plane(form).first_sums + token * n_groups();
}

bool quantize(Activations& activations, Range tokens, Isa isa) {
  require(tokens.begin >= 0 && tokens.end <= activations.n_tokens(), "quantize: token range", tokens.begin,
          tokens.end);
  return with_isa(isa, [&](auto tag) {
    using Tag = decltype(tag);
    bool finite = true;
    for (const ActForm form : {ActForm::q8, ActForm::q15}) {
      if (!activations.forms().has(form)) continue;
      for (int64_t token = tokens.begin; token < tokens.end; ++token) {
        finite &= quantize_row<Tag>({.x = activations.f32_row(token),
                                     .n_groups = activations.n_groups(),
                                     .high = activations.high_row(form, token),
                                     .low = form == ActForm::q15 ? activations.low_row(token) : nullptr,
                                     .scales = activations.scales(form, token),
                                     .sums = activations.sums(form, token),
                                     .first_sums = activations.first_sums(form, token)});
      }
    }
    return finite;
  });
}

}  // namespace tandem
