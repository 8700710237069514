// The clock of a device's steps, against waits of known length that the stream or the host takes. Needs a
// GPU.
#include "ops/cuda/step_clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <thread>

#include "tests/ops/cuda/gpu_support.h"

namespace tandem::cuda {
namespace {

using namespace std::chrono_literals;

constexpr auto kWork = 10ms;
constexpr double kWork_s = 0.010;
constexpr auto kPause = 200ms;  // far more than a busy machine adds to a little work
constexpr double kPause_s = 0.200;

class StepClockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_device()) GTEST_SKIP() << "no CUDA device";
    stream_.emplace();
    clock_.emplace();
  }
  void work() {
    check(cudaLaunchHostFunc(
        stream_->get(), [](void*) { std::this_thread::sleep_for(kWork); }, nullptr));
  }
  void step() {
    clock_->begin(stream_->get());
    work();
    clock_->end(stream_->get());
  }
  void pause() {
    stream_->synchronize();
    std::this_thread::sleep_for(kPause);
  }

  std::optional<Stream> stream_;
  std::optional<StepClock> clock_;
};

TEST_F(StepClockTest, TellsWorkFromPauses) {
  EXPECT_EQ(clock_->take().n_steps, 0);
  pause();  // before the first step: nobody's
  step();
  pause();
  step();
  step();
  const DeviceTime time = clock_->take();
  EXPECT_EQ(time.n_steps, 3);
  EXPECT_GE(time.busy_s, 3 * kWork_s);
  EXPECT_LT(time.busy_s, kPause_s);
  EXPECT_GE(time.idle_s, kPause_s);
  EXPECT_LT(time.idle_s, 2 * kPause_s);
  EXPECT_GE(time.longest_idle_s, kPause_s);
  EXPECT_LE(time.longest_idle_s, time.idle_s);
}

TEST_F(StepClockTest, BeginsAnewWhenItIsRead) {
  step();
  clock_->take();
  pause();
  step();
  const DeviceTime time = clock_->take();
  EXPECT_EQ(time.n_steps, 1);
  EXPECT_EQ(time.idle_s, 0.0);
  EXPECT_GE(time.busy_s, kWork_s);
}

TEST_F(StepClockTest, WhatComesBehindAStepBelongsToIt) {
  step();
  pause();
  work();
  clock_->prolong(stream_->get());
  step();
  const DeviceTime time = clock_->take();
  EXPECT_EQ(time.n_steps, 2);
  EXPECT_GE(time.busy_s, kPause_s + 3 * kWork_s);
  EXPECT_LT(time.idle_s, kPause_s);
}

TEST_F(StepClockTest, CountsNoStepThatFailed) {
  clock_->begin(stream_->get());
  pause();
  step();
  const DeviceTime time = clock_->take();
  EXPECT_EQ(time.n_steps, 1);
  EXPECT_LT(time.busy_s, kPause_s);
}

TEST_F(StepClockTest, CountsMoreStepsThanItHasEvents) {
  constexpr int kSteps = 30;
  for (int i = 0; i < kSteps; ++i) step();
  const DeviceTime time = clock_->take();
  EXPECT_EQ(time.n_steps, kSteps);
  EXPECT_GE(time.busy_s, kSteps * kWork_s);
}

}  // namespace
}  // namespace tandem::cuda
