#include "comm/mpi.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>

#include "comm/exchange.h"
#include "comm/mpi_memory.h"
#include "comm/node_channel.h"
#include "comm/process.h"
#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 30;  // of a broadcast between nodes: MPI counts in int

// What launchers tell a rank, in the order of trust.
constexpr std::array kRanks = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PALS_RANKID",
                               "MV2_COMM_WORLD_RANK"};
constexpr std::array kSizes = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"};

/// An integer from the environment, or `missing`.
int environment_number(const char* name, int missing) {
  const char* text = std::getenv(name);
  if (text == nullptr) return missing;
  int value = 0;
  const auto [end, status] = std::from_chars(text, text + std::strlen(text), value);
  return status == std::errc{} && *end == '\0' ? value : missing;
}

/// How many nodes to pretend; 0 for the truth.
int fake_nodes() {
  const char* text = std::getenv("TANDEM_FAKE_NODES");
  if (text == nullptr || *text == '\0') return 0;
  const int value = environment_number("TANDEM_FAKE_NODES", -1);
  if (value < 1) {
    throw Error(ExitCode::usage, "TANDEM_FAKE_NODES=" + std::string(text) + " is not a number of nodes",
                "give a number from 1, or unset it");
  }
  return value;
}

/// An MPI communicator that is ours to free.
class Group {
 public:
  Group() = default;
  ~Group() {
    if (comm_ != MPI_COMM_NULL && std::uncaught_exceptions() == n_exceptions_) MPI_Comm_free(&comm_);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  MPI_Comm* receive() { return &comm_; }
  MPI_Comm get() const { return comm_; }
  bool exists() const { return comm_ != MPI_COMM_NULL; }
  int rank() const {
    int rank = 0;
    check_mpi(MPI_Comm_rank(comm_, &rank), "MPI_Comm_rank");
    return rank;
  }
  int size() const {
    int size = 0;
    check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
    return size;
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int n_exceptions_ = std::uncaught_exceptions();
};

/// Who sits where. Slots are numbered node by node, so that a node's contributions lie side by side.
struct Placement {
  std::vector<int> node_of_rank;  // (size)
  std::vector<int> slot_of_rank;  // (size)
  std::vector<int> first_slot;    // (n_nodes + 1)
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator();
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int node_rank() const override { return channel_->rank(); }
  int node_size() const override { return channel_->n_ranks(); }
  int n_nodes() const override { return n_nodes_; }

  std::byte* contribution(size_t n_bytes) override { return exchange_->contribution(n_bytes); }
  std::span<const std::byte* const> publish() override { return exchange_->publish(); }
  void broadcast(std::span<std::byte> bytes, int root) override;
  void barrier() override { all_agree(true); }
  bool all_agree(bool mine) override;
  std::unique_ptr<NodeBuffer> node_buffer(size_t n_bytes) override {
    return make_window_buffer(node_.get(), n_bytes, true);
  }
  void node_barrier() override { channel_->vote(true); }
  void set_threads_per_rank(int n_threads) override;

 private:
  bool leads() const { return leaders_.exists(); }
  void split();
  void place();
  void count_cores(MPI_Comm machine);
  void fetch(std::byte* set, size_t stride_bytes);
  void await(MPI_Request request);

  Group world_;
  Group node_;
  Group leaders_;  // rank 0 of every node; null on the others and where there is one node
  int rank_ = 0;
  int size_ = 1;
  int n_nodes_ = 1;
  int machine_ranks_ = 1;  // on this machine, whatever TANDEM_FAKE_NODES says
  int machine_cores_ = 1;  // that these ranks together may use
  int own_cores_ = 1;
  Placement placement_;
  std::unique_ptr<NodeBuffer> words_;  // of channel_
  std::unique_ptr<NodeChannel> channel_;
  std::unique_ptr<SlotExchange> exchange_;
};

MpiCommunicator::MpiCommunicator() {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, world_.receive()), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(world_.get(), MPI_ERRORS_RETURN);
  rank_ = world_.rank();
  size_ = world_.size();
  split();
  place();
  words_ = make_window_buffer(node_.get(), NodeChannel::memory_bytes(node_.size()), false);
  if (node_.rank() == 0) NodeChannel::construct(words_->bytes(), node_.size());
  check_mpi(MPI_Barrier(node_.get()), "MPI_Barrier");
  channel_ = std::make_unique<NodeChannel>(words_->bytes(), node_.rank(), node_.size());
  set_threads_per_rank(1);
  SlotExchange::Fetch fetch_remote;
  if (n_nodes_ > 1) fetch_remote = [this](std::byte* set, size_t stride) { fetch(set, stride); };
  exchange_ = std::make_unique<SlotExchange>(
      *channel_, rank_, placement_.slot_of_rank,
      [this](size_t n_bytes) { return make_window_buffer(node_.get(), n_bytes, false); },
      std::move(fetch_remote));
}

MpiCommunicator::~MpiCommunicator() = default;

void MpiCommunicator::split() {
  Group machine;
  check_mpi(MPI_Comm_split_type(world_.get(), MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, machine.receive()),
            "MPI_Comm_split_type");
  count_cores(machine.get());
  machine_ranks_ = machine.size();
  const int n_fakes = fake_nodes();
  const int color = n_fakes == 0 ? 0 : rank_ % n_fakes;
  check_mpi(MPI_Comm_split(machine.get(), color, rank_, node_.receive()), "MPI_Comm_split");
  const bool leader = node_.rank() == 0;
  check_mpi(MPI_Comm_split(world_.get(), leader ? 0 : MPI_UNDEFINED, rank_, leaders_.receive()),
            "MPI_Comm_split");
}

void MpiCommunicator::place() {
  // A node's number is its leader's rank among the leaders.
  int node = leads() ? leaders_.rank() : 0;
  check_mpi(MPI_Bcast(&node, 1, MPI_INT, 0, node_.get()), "MPI_Bcast");
  std::vector<int>& nodes = placement_.node_of_rank;
  nodes.resize(static_cast<size_t>(size_));
  check_mpi(MPI_Allgather(&node, 1, MPI_INT, nodes.data(), 1, MPI_INT, world_.get()), "MPI_Allgather");
  n_nodes_ = 1 + *std::max_element(nodes.begin(), nodes.end());
  std::vector<int>& first = placement_.first_slot;
  first.assign(static_cast<size_t>(n_nodes_) + 1, 0);
  for (const int n : nodes) ++first[static_cast<size_t>(n) + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int> next = first;
  for (const int n : nodes) placement_.slot_of_rank.push_back(next[static_cast<size_t>(n)]++);
}

void MpiCommunicator::count_cores(MPI_Comm machine) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine);
  own_cores_ = std::max(1, CPU_COUNT(&mine));
  cpu_set_t all;
  check_mpi(MPI_Allreduce(&mine, &all, static_cast<int>(sizeof all), MPI_BYTE, MPI_BOR, machine),
            "MPI_Allreduce");
  machine_cores_ = std::max(1, CPU_COUNT(&all));
}

void MpiCommunicator::set_threads_per_rank(int n_threads) {
  channel_->set_may_spin(n_threads <= own_cores_ && n_threads * machine_ranks_ <= machine_cores_);
}

void MpiCommunicator::fetch(std::byte* set, size_t stride_bytes) {
  // The unit of counting is a slot: counts stay far below MPI's int, however large the slots are.
  const std::vector<int>& first = placement_.first_slot;
  std::vector<int> counts(static_cast<size_t>(n_nodes_));
  for (size_t n = 0; n < counts.size(); ++n) counts[n] = first[n + 1] - first[n];
  MPI_Datatype line = MPI_DATATYPE_NULL;
  MPI_Datatype slot = MPI_DATATYPE_NULL;
  check_mpi(MPI_Type_contiguous(static_cast<int>(kLineBytes), MPI_BYTE, &line), "MPI_Type_contiguous");
  check_mpi(MPI_Type_contiguous(static_cast<int>(stride_bytes / kLineBytes), line, &slot),
            "MPI_Type_contiguous");
  check_mpi(MPI_Type_commit(&slot), "MPI_Type_commit");
  if (channel_->spin_policy().allowed) {
    check_mpi(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, set, counts.data(), first.data(), slot,
                             leaders_.get()),
              "MPI_Allgatherv");
  } else {  // waiting in MPI would take the core from the ranks that we wait for
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, set, counts.data(), first.data(), slot,
                              leaders_.get(), &request),
              "MPI_Iallgatherv");
    await(request);
  }
  MPI_Type_free(&slot);
  MPI_Type_free(&line);
}

void MpiCommunicator::await(MPI_Request request) {
  // Tested by our own backoff: inside MPI_Wait an idle rank would burn its core.
  wait_until(channel_->spin_policy(), [&] {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
}

void MpiCommunicator::broadcast(std::span<std::byte> bytes, int root) {
  require(0 <= root && root < size_, "a broadcast's root is out of range", root, size_);
  const int root_node = placement_.node_of_rank[static_cast<size_t>(root)];
  const bool at_root = placement_.node_of_rank[static_cast<size_t>(rank_)] == root_node;
  const int root_in_node = placement_.slot_of_rank[static_cast<size_t>(root)] -
                           placement_.first_slot[static_cast<size_t>(root_node)];
  if (at_root) channel_->broadcast(bytes, root_in_node);
  if (leads() && n_nodes_ > 1) {
    for (size_t begin = 0; begin < bytes.size(); begin += kPieceBytes) {
      const int n = static_cast<int>(std::min(kPieceBytes, bytes.size() - begin));
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Ibcast(bytes.data() + begin, n, MPI_BYTE, root_node, leaders_.get(), &request),
                "MPI_Ibcast");
      await(request);
    }
  }
  if (!at_root) channel_->broadcast(bytes, 0);
}

bool MpiCommunicator::all_agree(bool mine) {
  bool all = channel_->vote(mine);
  if (n_nodes_ == 1) return all;
  int word = all ? 1 : 0;
  if (leads()) {
    int result = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallreduce(&word, &result, 1, MPI_INT, MPI_LAND, leaders_.get(), &request),
              "MPI_Iallreduce");
    await(request);
    word = result;
  }
  channel_->broadcast(std::as_writable_bytes(std::span(&word, 1)), 0);
  return word != 0;
}

}  // namespace

LauncherInfo launcher_info() {
  LauncherInfo info;
  for (const char* name : kRanks) {
    if (info.rank < 0) info.rank = environment_number(name, -1);
  }
  for (const char* name : kSizes) {
    if (info.size < 0) info.size = environment_number(name, -1);
  }
  // Set by srun only, while SLURM_PROCID is there in a plain batch script too.
  if (const int n_tasks = environment_number("SLURM_STEP_NUM_TASKS", -1); n_tasks > 0) {
    if (info.rank < 0) info.rank = environment_number("SLURM_PROCID", -1);
    // A PMIx server that isn't Slurm's made this process, perhaps alone on purpose.
    const char* space = std::getenv("PMIX_NAMESPACE");
    const bool inner = space != nullptr && std::strncmp(space, "slurm", 5) != 0;
    if (info.size < 0 && !inner) info.size = n_tasks;
  }
  info.present = info.rank >= 0 || info.size >= 0;
  return info;
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string line(text, static_cast<size_t>(length));
  line.resize(std::min(line.find_first_of("\n,"), line.size()));
  // MPICH has a tab in it.
  std::replace(line.begin(), line.end(), '\t', ' ');
  return line;
}

MpiEnvironment::MpiEnvironment() {
  int started = 0;
  int ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  if (started != 0 || ended != 0) throw Error(ExitCode::unavailable, "MPI was started already");
  const LauncherInfo info = launcher_info();  // before MPI adds variables of its own
  int level = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (level < MPI_THREAD_FUNNELED) {
    throw Error(ExitCode::unavailable, "this MPI library was built without threads",
                "use one that gives MPI_THREAD_FUNNELED");
  }
  int rank = 0;
  int size = 1;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  if (size == 1 && info.size > 1) {
    const bool slurm = std::getenv("SLURM_STEP_NUM_TASKS") != nullptr;
    throw Error(ExitCode::unavailable,
                std::string(slurm ? "this Slurm job step has " : "the launcher started ") +
                    std::to_string(info.size) + (slurm ? " tasks" : " ranks") + " but MPI sees one (" +
                    mpi_library_version() + ")",
                slurm ? "use srun --mpi=pmix, or this MPI library's mpirun"
                      : "start with this MPI library's mpirun, or with srun --mpi=pmix");
  }
  set_job(rank, [](int exit_code) { MPI_Abort(MPI_COMM_WORLD, exit_code); });
}

MpiEnvironment::~MpiEnvironment() {
  int ended = 0;
  MPI_Finalized(&ended);
  if (ended != 0 || std::uncaught_exceptions() != 0) return;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  set_job(rank, nullptr);
  MPI_Finalize();
}

std::unique_ptr<Communicator> make_mpi_communicator(const MpiEnvironment&) {
  return std::make_unique<MpiCommunicator>();
}

}  // namespace tandem

// What the sanitizers shall not say of MPI libraries. Here, and not in a file of its own, because the linker
// takes this file from the archive wherever MPI is used.
#if defined(__SANITIZE_ADDRESS__)
// They leave memory to the process's end, much of it from plugins that are unloaded by then: only a whole
// stack, by the slow unwinder, leads to a frame that can be named.
extern "C" const char* __asan_default_options() {
  return "fast_unwind_on_malloc=0";
}
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libmpi.so\nleak:libopen-rte.so\nleak:libopen-pal.so\nleak:libpmix.so\nleak:libmpich.so\nleak:"
         "libevent\n";
}
#elif defined(__SANITIZE_THREAD__)
// Their own threads synchronise by code that is not instrumented.
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:libopen-pal.so\ncalled_from_lib:libopen-rte.so\ncalled_from_lib:libmpi.so\n"
         "race:libevent\nrace:mca_\nmutex:mca_\ndeadlock:mca_\n";
}
#endif
