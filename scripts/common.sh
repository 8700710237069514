# shellcheck shell=bash
# What scripts/quickstart, test, fetch_models and format share. Sourced, never run; writes only below the
# cache folder. Needs: set -euo pipefail in the caller.
shopt -s inherit_errexit # a command that fails inside $(…) ends the caller, too

tandem_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tandem_cache=${TANDEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tandem}

# What a build needs, by its name in Debian 12 and Ubuntu 24.04.
build_packages=(g++ cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libboost-program-options-dev
  libfmt-dev libspdlog-dev nlohmann-json3-dev libpcre2-dev libhwloc-dev libxxhash-dev libgtest-dev libbenchmark-dev
  python3 python3-venv)
# What the tests and their comfort need beyond that.
test_packages=(clang-14 clang-format-14 libclang-rt-14-dev ccache mold slurm-wlm munge shellcheck)

section() { printf '\n=== %s\n' "$*" >&2; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# install_packages NAME...: asks dpkg first, so that a machine that has all of them pays milliseconds and no
# root.
install_packages() {
  local missing=() name
  command -v dpkg-query >/dev/null || { echo "no dpkg here: install by hand: $*" >&2; return 0; }
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "missing packages, and no sudo to install them: ${missing[*]}"
    as_root=(sudo)
  fi
  section "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# python_venv NAME REQUIREMENT...: prints the path of a Python that has them; made once, remade when the list
# changes.
python_venv() {
  local folder="$tandem_cache/venv-$1"
  shift
  mkdir -p "$tandem_cache"
  if [[ ! -x "$folder/bin/python" || $(cat "$folder/requirements.txt" 2>/dev/null) != "$*" ]]; then
    section "Python packages: $*"
    python3 -m venv --clear "$folder" >&2
    if (($#)); then "$folder/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2 || return; fi
    printf '%s' "$*" >"$folder/requirements.txt"
  fi
  printf '%s\n' "$folder/bin/python"
}

# Sets mpirun_command: root and more ranks than cores are fine for a trial; only Open MPI objects to either.
prepare_mpirun() {
  mpirun_command=(mpirun)
  if mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
    mpirun_command+=(--oversubscribe)
    if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  fi
}

# build_preset PRESET [TARGET...]
build_preset() {
  local preset=$1
  shift
  (cd "$tandem_root" && cmake --preset "$preset" >&2 && cmake --build "build/$preset" ${@:+--target "$@"} >&2)
}
