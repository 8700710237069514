# shellcheck shell=bash
# What the sbatch files beside this share: staging, starting tandem so that signals reach it, and what its exit code
# means for the job. Sourced by them, never run. Settings come from the environment (README.md here lists them).

tandem_slurm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TANDEM=${TANDEM:-tandem}

say() { printf '%s job %s: %s\n' "$(date +%T)" "${SLURM_JOB_ID:-?}" "$*" >&2; }
fail() { say "$*"; exit 64; }

# Whether the job was told to stop (#SBATCH --signal=B:USR1@…, or scancel --batch --signal=USR1).
asked=${asked-0}
trap 'asked=1' USR1 TERM

# One process a rank at most: tandem deals threads and GPUs itself, from all that the job has on the node.
srun_options=(--mpi=pmix --kill-on-bad-exit=1 --gpu-bind=none --cpu-bind=none)
mpirun_options=(--bind-to none)
# A rank that ends with 75 is no accident: without Open MPI's paragraphs about it. tandem says itself what went wrong.
export OMPI_MCA_orte_execute_quiet=${OMPI_MCA_orte_execute_quiet-1}
# What a shell says of a command that ended by USR1: it was told to stop before it listened for that.
ended_by_usr1=$((128 + $(kill -l USR1)))

# need NAME...: ends the job with one line where a setting is missing.
need() {
  local name
  for name in "$@"; do [[ -n ${!name-} ]] || fail "set $name (sbatch --export=ALL,$name=… or export it)"; done
}

# shellcheck disable=SC2153 # MODEL, INPUT and OUTPUT are the user's
# stage_model: copies MODEL to every node of the job and sets `model` to the copy's path, the same on each. The copies
# go with the job, unless TANDEM_STAGE_DIR names a folder that outlives it. STAGE=0: MODEL is used where it is.
stage_model() {
  model=$MODEL
  if [[ ${STAGE:-1} == 0 ]]; then return; fi
  local base=${TANDEM_STAGE_DIR:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/tandem-$SLURM_JOB_ID}
  local begin=$SECONDS
  if [[ -z ${TANDEM_STAGE_DIR-} ]]; then staged=$base; fi
  by_srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 -- "$tandem_slurm/stage" "$MODEL" "$base"
  if ((code == ended_by_usr1)); then asked=1; fi # the step was told, not this shell
  if ((code == 0)); then
    model=$base/$(basename "$MODEL")
    say "the model is on each node's own disk after $((SECONDS - begin)) s: $model"
  else
    say "not staged: the model is read from $MODEL"
  fi
}

# Takes this job's copies away again. Not at a requeue's mercy: a job that starts again stages again. A job that was
# cancelled has no more steps, and so leaves the copies of nodes other than this.
unstage() {
  if [[ -z ${staged-} ]]; then return; fi
  rm -rf -- "$staged"
  if ((SLURM_JOB_NUM_NODES > 1)) && ! cancelled; then
    srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf -- "$staged" || true
  fi
  staged=
}

# Whether Slurm is ending this job though it has time left: by scancel, or for a job that goes before it.
cancelled() {
  local state left
  read -r state left < <(squeue -h -j "$SLURM_JOB_ID" -o '%T %L')
  [[ $state == COMPLETING && ($left == UNLIMITED || ($left == *[1-9]* && $left != -*)) ]]
}

# run_batch LAUNCHER: the batch of INPUT to OUTPUT with the staged model, by mpirun or srun. TANDEM_ARGS: more flags.
# Sets `code` to its exit code.
run_batch() {
  local extra
  if ((asked)); then
    say "told to stop before it began"
    code=75
    return
  fi
  journal=$(realpath -m -- "$OUTPUT").journal
  done_before=$(journal_bytes)
  read -ra extra <<<"${TANDEM_ARGS-}"
  local tandem=("$TANDEM" batch -m "$model" -i "$INPUT" -o "$OUTPUT" "${extra[@]}")
  case $1 in
    mpirun) by_mpirun "${mpirun_options[@]}" -np "$SLURM_NTASKS" -- "${tandem[@]}" ;;
    srun) by_srun --ntasks="$SLURM_NTASKS" "${srun_options[@]}" -- "${tandem[@]}" ;;
    *) fail "LAUNCHER is srun or mpirun, not $1" ;;
  esac
}

journal_bytes() { stat -c %s -- "$journal" 2>/dev/null || echo 0; }

# still_stuck: whether this run is the MAX_STUCK'th one in a row that finished no line. A line that takes longer than a
# run has would be begun for ever. The count is kept beside the journal.
still_stuck() {
  local count=0
  if [[ -z ${journal-} || $(journal_bytes) -gt $done_before ]]; then
    rm -f -- "${journal-}.stuck"
    return 1
  fi
  if [[ -r $journal.stuck ]]; then count=$(<"$journal.stuck"); fi
  echo $((count + 1)) >"$journal.stuck"
  ((count + 1 >= ${MAX_STUCK:-3}))
}

# by_mpirun, by_srun OPTION... -- PROGRAM ARGUMENT...: runs it in the job and sets `code`. What this shell is told meanwhile
# goes on as USR1, which either passes to every task, but not before one has begun: mpirun fails of a signal that finds
# it without its daemons, and srun has nobody to give one to. Not as TERM: mpirun gives its ranks one second then.
by_mpirun() { launch mpirun "$@"; }
by_srun() { launch srun "$@"; }

launch() {
  local options=() folder pid again told=0
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  folder=$(mktemp -d) || fail "no room in ${TMPDIR:-/tmp}"
  tandem_began=$folder/began "${options[@]}" "$tandem_slurm/task" "$@" &
  pid=$!
  trap 'asked=1 told=1; hand_on "$pid" "$folder/began"' USR1 TERM
  if ((asked && !told)); then told=1; hand_on "$pid" "$folder/began"; fi # just before this trap
  code=0
  wait "$pid" || code=$?
  while ((told)); do # a trap has ended a `wait` early, and there is one more to come
    told=0
    again=0
    wait "$pid" || again=$?
    if ((again != 127)); then code=$again; fi # 127: was waited for already
  done
  trap 'asked=1' USR1 TERM
  rm -rf -- "$folder"
}

# hand_on PID FILE: tells a launcher to stop as soon as `task` has made FILE. Where that isn't seen on this node, after
# half a minute.
hand_on() {
  local tries
  say "told to stop: a checkpoint"
  for ((tries = 0; tries < 300; ++tries)); do
    if [[ -e $2 ]] || ! kill -0 "$1" 2>/dev/null; then break; fi
    sleep 0.1
  done
  kill -USR1 "$1" 2>/dev/null
}

# finish: ends the job by what `code` says. 75 is "stopped before the end, start me again": the same job is put
# into the queue once more, at most MAX_RESTARTS times.
finish() {
  unstage
  if cancelled; then
    say "Slurm ends this job: put back into the queue or submitted again, it goes on where it stopped"
    exit "$code"
  fi
  # Told before it listened: nothing was done that could be lost.
  if ((code == ended_by_usr1)); then code=75; fi
  case $code in
    0) say "done"; rm -f -- "${journal:-none}.stuck" ;;
    65)
      # Of a file that is wrong, too: then there is no output, or the journal is still there.
      if [[ -e $OUTPUT && (! -e ${journal-} || ${TANDEM_ARGS-} == *--keep-journal*) ]]; then
        rm -f -- "${journal:-none}.stuck"
        say "done, but some lines failed: see the output's error records"
      else
        say "failed with 65"
      fi
      ;;
    75)
      if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-100})); then
        say "not finished after ${SLURM_RESTART_COUNT:-0} restarts: giving up"
        exit 75
      fi
      if still_stuck; then
        say "no line was finished in ${MAX_STUCK:-3} runs: giving up; allow more time, or fewer at once (--parallel)"
        rm -f -- "$journal.stuck"
        exit 75
      fi
      say "not finished: back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
      local id=$SLURM_JOB_ID
      if [[ -n ${SLURM_ARRAY_JOB_ID-} ]]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
      if scontrol requeue "$id"; then
        trap '' USR1
        trap - TERM
        sleep 60 # Slurm ends this shell
      fi
      say "the queue does not take it back: submit it again, it goes on where it stopped"
      ;;
    *) say "failed with $code" ;;
  esac
  exit "$code"
}
