// What every communicator must do, as functions over one rank's end: run by threads in test_communicator.cpp
// and by processes in test_mpi_communicator.cpp. All inputs are whole numbers, so sums are exact and bits can
// be compared.
#pragma once

#include "comm/communicator.h"

namespace tandem::test {

void check_exchange_sums(Communicator& comm);
void check_exchange_reads_stay_valid(Communicator& comm);
void check_exchange_grows(Communicator& comm);
void check_mixed_storm(Communicator& comm, int n_rounds);
void check_broadcast(Communicator& comm);
void check_votes(Communicator& comm);
void check_gather_text(Communicator& comm);
void check_node_buffer(Communicator& comm);
void check_idle_wait(Communicator& comm);

}  // namespace tandem::test
