// A gtest main for tests under mpirun: after each test the failures of all ranks appear on rank 0's output,
// and all ranks exit with 1 if any failed. A test that hangs (a rank that returned early leaves the others
// waiting) is ended after TANDEM_TEST_HANG_S seconds (default 100), with a line from each rank that hangs.
#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/mpi_world.h"

namespace tandem::test {
namespace {

std::unique_ptr<MpiEnvironment> g_environment;
std::unique_ptr<Communicator> g_world;

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

std::chrono::seconds hang_limit() {
  const char* text = std::getenv("TANDEM_TEST_HANG_S");
  return std::chrono::seconds(text != nullptr ? std::atoi(text) : 100);
}

/// Ends the process when a test runs too long.
class HangGuard {
 public:
  HangGuard() : thread_([this] { watch(); }) {}
  ~HangGuard() {
    set("", true);
    thread_.join();
  }
  HangGuard(const HangGuard&) = delete;
  HangGuard& operator=(const HangGuard&) = delete;

  /// `what` runs from now on.
  void set(const std::string& what, bool stop = false) {
    const std::lock_guard lock(mutex_);
    what_ = what;
    stop_ = stop;
    since_ = std::chrono::steady_clock::now();
    changed_.notify_one();
  }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      changed_.wait_for(lock, std::chrono::seconds(1));
      if (stop_ || std::chrono::steady_clock::now() - since_ < limit_) continue;
      std::fprintf(stderr, "rank %d: %s hangs\n", world_rank(), what_.c_str());
      std::fflush(stderr);
      std::fflush(stdout);
      usleep(300'000);  // mpirun ends the other ranks with the first: let them speak
      _exit(1);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_ = "start";
  const std::chrono::seconds limit_ = hang_limit();
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  bool stop_ = false;
  std::thread thread_;
};

/// Collects this rank's failures and brings them to rank 0 when a test ends.
class Gatherer : public testing::EmptyTestEventListener {
 public:
  explicit Gatherer(HangGuard& guard) : guard_(guard) {}
  bool any_failed() const { return any_failed_; }

  void OnTestStart(const testing::TestInfo& test) override {
    guard_.set(std::string(test.test_suite_name()) + "." + test.name());
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    mine_ += std::string(result.file_name() ? result.file_name() : "?") + ":" +
             std::to_string(result.line_number()) + ": " + result.message() + "\n";
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    const int rank = world_rank();
    int n_ranks = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    const int n_bytes = static_cast<int>(mine_.size());
    std::vector<int> sizes(static_cast<size_t>(n_ranks));
    MPI_Allgather(&n_bytes, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD);
    std::vector<int> offsets(sizes.size() + 1, 0);
    for (size_t i = 0; i < sizes.size(); ++i) offsets[i + 1] = offsets[i] + sizes[i];
    std::string all(static_cast<size_t>(offsets.back()), '\0');
    MPI_Gatherv(mine_.data(), n_bytes, MPI_CHAR, all.data(), sizes.data(), offsets.data(), MPI_CHAR, 0,
                MPI_COMM_WORLD);
    mine_.clear();
    any_failed_ = any_failed_ || !all.empty();
    if (rank != 0) return;
    for (size_t i = 1; i < sizes.size(); ++i) {
      if (sizes[i] == 0) continue;
      std::printf("[  FAILED  ] %s.%s on rank %zu:\n%.*s", test.test_suite_name(), test.name(), i, sizes[i],
                  all.data() + offsets[i]);
    }
    std::fflush(stdout);
  }

 private:
  HangGuard& guard_;
  std::string mine_;
  bool any_failed_ = false;
};

}  // namespace

MpiEnvironment& mpi_environment() {
  return *g_environment;
}

Communicator& mpi_world() {
  if (!g_world) g_world = make_mpi_communicator(*g_environment);
  return *g_world;
}

int run_mpi_tests(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  g_environment = std::make_unique<MpiEnvironment>();
  int failed = 0;
  {
    HangGuard guard;
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    if (world_rank() != 0) delete listeners.Release(listeners.default_result_printer());
    auto* gatherer = new Gatherer(guard);  // gtest owns it
    listeners.Append(gatherer);
    failed = RUN_ALL_TESTS() != 0 || gatherer->any_failed() ? 1 : 0;
    guard.set("the end");
    g_world.reset();
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    g_environment.reset();
  }
  return failed;
}

}  // namespace tandem::test

int main(int argc, char** argv) {
  return tandem::test::run_mpi_tests(argc, argv);
}
