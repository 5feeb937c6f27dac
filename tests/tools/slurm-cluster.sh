#!/bin/bash
# A real SLURM cluster for tests: slurmctld and a few slurmd, all on this machine, without systemd, cgroups or /etc.
#
#   slurm-cluster.sh install                  install the Debian packages (as root)
#   slurm-cluster.sh up | down | status       start it, stop it (logs remain), show nodes and queue
#   slurm-cluster.sh env                      print the line that points SLURM's commands at it
#   slurm-cluster.sh kill-node NODE [SIGNAL] | start-node NODE
#   slurm-cluster.sh kill-ctld [SIGNAL] | start-ctld
#
# Everything is in CLUSTER_DIR; several clusters may run at once, each with its own folder and ports.
# Settings of `up`, from the environment:
#   CLUSTER_DIR       its folder, of at most 80 characters                          (/tmp/slurm-cluster)
#   NODES, CPUS, MEM, GPUS   nodes n1, n2, ...; CPUs, MB and made-up GPUs of each   (2, 4, 8000, 2)
#   THREADS_PER_CORE  2: CPUS are hardware threads, two of a core                   (1)
#   ACCT              dbd: slurmdbd on a MariaDB, for sacct and associations        (none)
#   CRED_EXPIRE       seconds before a requeued job may start; SLURM: 120           (8)
#   LOW_EXTRA         further settings of the partition that is preempted           (none)
#   EXTRA_CONF        further lines for slurm.conf; they replace those of the same key
#   PORT_BASE         first of NODES + 3 consecutive ports                          (the first free ones from 17000 on)
#   SMOKE             0: do not run a job before returning                          (1)
set -euo pipefail

folder=$(realpath -m "${CLUSTER_DIR:-/tmp/slurm-cluster}")
facts=$folder/facts.sh
export SLURM_CONF=$folder/slurm.conf SLURM_TEST_CLUSTER=$folder
PATH=$PATH:/usr/sbin:/sbin

fail() {
  echo "slurm-cluster.sh: $*" >&2
  exit 1
}

until_true() { # SECONDS WHAT COMMAND...: poll it
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" &>/dev/null; do
    ((SECONDS < deadline)) || fail "$what: not after $((SECONDS - deadline + $1)) s; logs are in $folder/log"
    sleep 0.2
  done
}

# --- processes: a daemon is known by its pid file and by SLURM_TEST_CLUSTER in its environment

is_running() { # NAME
  local pid
  pid=$(cat "$folder/pid/$1" 2>/dev/null) || return 1
  has_variable "$pid" "SLURM_TEST_CLUSTER=$folder" && ! grep -q '^State:.*Z' "/proc/$pid/status"
} 2>/dev/null

has_variable() { # PID NAME=VALUE
  tr '\0' '\n' <"/proc/$1/environ" | grep -Fqx "$2"
} 2>/dev/null

launch() { # NAME COMMAND...: in a session of its own, without our lock
  local name=$1
  shift
  (
    [ -z "${lock:-}" ] || exec {lock}>&-
    exec </dev/null >>"$folder/log/$name.out" 2>&1
    # shellcheck disable=SC2016  # expanded by the new shell, whose pid is the daemon's
    exec setsid bash -c 'echo $$ >"$0"; exec "$@"' "$folder/pid/$name" "$@"
  ) &
  until_true 120 "$name to start" test -s "$folder/pid/$name"
}

stop() { # NAME [SIGNAL]: then KILL, if it does not end within ten seconds
  local pid deadline=$((SECONDS + 10))
  if is_running "$1"; then
    pid=$(<"$folder/pid/$1")
    kill -s "${2:-TERM}" "$pid" || true
    while is_running "$1" && ((SECONDS < deadline)); do sleep 0.1; done
    ! is_running "$1" || kill -s KILL "$pid" || true
  fi
  rm -f "$folder/pid/$1"
}

listens() { # PORT
  (: <>"/dev/tcp/127.0.0.1/$1")
} 2>/dev/null

# --- configuration

choose_ports() { # sets port: the first of NODES + 3 that nothing listens on
  local last candidate
  for ((port = ${PORT_BASE:-17000}; port < 32000; port += 20)); do
    last=$((port + NODES + 2))
    for ((candidate = port; candidate <= last; candidate++)); do ! listens "$candidate" || break; done
    ((candidate <= last)) || return 0
    [ -z "${PORT_BASE:-}" ] || fail "port $candidate is in use; choose another PORT_BASE"
  done
  fail "no free ports between 17000 and 32000"
}

write_slurm_conf() {
  local host node gpu
  host=$(hostname -s)
  {
    cat <<CONF
ClusterName=$cluster
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=${CRED_EXPIRE:-8}
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/spool/slurmctld.pid
SlurmdPidFile=$folder/spool/%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
KillWait=5
CompleteWait=0
InactiveLimit=0
MessageTimeout=30
SlurmctldTimeout=30
SlurmdTimeout=20
CONF
    # Where the host's name is no loopback address, slurmctld cannot find itself unless it listens on all of them.
    if getent ahostsv4 "$host" | grep -q '^127\.0\.0\.1 '; then
      echo CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
    fi
    if [ "${ACCT:-none}" = dbd ]; then
      printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=127.0.0.1 \
        "AccountingStoragePort=$((port + NODES + 1))" "AccountingStoragePass=$folder/munge/socket"
    else
      echo AccountingStorageType=accounting_storage/none
    fi
    printf '%s\n' "${EXTRA_CONF:-}"
  } | last_of_each_key >"$SLURM_CONF"
  {
    printf 'NodeName=n[1-%d] NodeHostname=%s NodeAddr=127.0.0.1 Port=[%d-%d] ' \
      "$NODES" "$host" $((port + 1)) $((port + NODES))
    printf 'Sockets=1 CoresPerSocket=%d ThreadsPerCore=%d CPUs=%d RealMemory=%d %s State=UNKNOWN\n' \
      $((CPUS / THREADS_PER_CORE)) "$THREADS_PER_CORE" "$CPUS" "$MEM" "$( ((GPUS == 0)) || echo "Gres=gpu:$GPUS")"
    echo "PartitionName=gpu_a100 Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 ${LOW_EXTRA:-}"
    echo "PartitionName=gpu_high Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=10"
  } >>"$SLURM_CONF"

  # SLURM asks that a GPU is a device; these devices exist everywhere and nothing is ever read from them.
  local devices=(null zero full random urandom tty)
  ((GPUS <= ${#devices[@]})) || fail "at most ${#devices[@]} GPUs a node"
  for ((node = 1; node <= NODES; node++)); do
    for ((gpu = 0; gpu < GPUS; gpu++)); do echo "NodeName=n$node Name=gpu File=/dev/${devices[gpu]}"; done
  done >"$folder/gres.conf"
  printf '%s\n' CgroupPlugin=cgroup/v1 "CgroupMountpoint=$folder/no-cgroups" CgroupAutomount=no >"$folder/cgroup.conf"
}

last_of_each_key() { # slurm.conf refuses a key that appears twice
  tac | awk -F= 'NF && !seen[tolower($1)]++' | tac
}

# --- accounting

start_accounting() {
  local mysql=$((port + NODES + 2)) dbd=$((port + NODES + 1)) user
  user=$(id -un)
  mariadb-install-db --no-defaults --user="$user" --datadir="$folder/mysql" --skip-test-db \
    --auth-root-authentication-method=normal >"$folder/log/mariadb-install.log" 2>&1 ||
    fail "mariadb-install-db failed; see $folder/log/mariadb-install.log"
  launch mariadbd mariadbd --no-defaults --user="$user" --datadir="$folder/mysql" --bind-address=127.0.0.1 \
    --port="$mysql" --socket="$folder/mysql.socket" --pid-file="$folder/mysql/pid" \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
  until_true 120 "mariadbd to listen" listens "$mysql"
  (
    umask 077
    cat >"$folder/slurmdbd.conf" <<CONF
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$dbd
SlurmUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$mysql
StorageUser=root
StorageLoc=slurm_acct
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/spool/slurmdbd.pid
CONF
  )
  launch slurmdbd env SLURM_CONF="$folder/slurmdbd.conf" slurmdbd -D
  until_true 120 "slurmdbd to listen" listens "$dbd"
}

knows_cluster() { sacctmgr -nP list cluster format=cluster | grep -Fqx "$cluster"; }

# --- up and down

start_controller() { launch slurmctld slurmctld -D -f "$SLURM_CONF"; }

start_node() { # NODE
  mkdir -p "$folder/spool/$1"
  launch "$1" slurmd -D -N "$1" -f "$SLURM_CONF"
}

controller_answers() { scontrol ping | grep -q 'is UP'; }

nodes_are_usable() { [ "$(sinfo -hN -p gpu_high -o %T | grep -Exc 'idle|mixed|allocated')" -eq "$NODES" ]; }

up() {
  local program node cluster port since=$SECONDS
  NODES=${NODES:-2} CPUS=${CPUS:-4} MEM=${MEM:-8000} GPUS=${GPUS:-2} THREADS_PER_CORE=${THREADS_PER_CORE:-1}
  for program in slurmctld slurmd munged; do
    command -v "$program" >/dev/null || fail "no $program on PATH; as root: $0 install"
  done
  ((${#folder} <= 80)) || fail "CLUSTER_DIR=$folder is too long for the path of a socket"
  ((CPUS % THREADS_PER_CORE == 0)) || fail "CPUS=$CPUS is not a multiple of THREADS_PER_CORE=$THREADS_PER_CORE"
  if [ -e "$facts" ]; then
    ! is_running slurmctld || fail "a cluster is already running in $folder"
    rm -rf "$folder"
  fi
  mkdir -p "$folder"
  [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty and is no cluster's"
  # Two clusters that start at once would choose the same ports: one waits until the other's daemons listen.
  exec {lock}>"/tmp/slurm-cluster.$UID.lock"
  flock "$lock"
  choose_ports
  cluster=test$port
  mkdir "$folder"/{log,munge,pid,spool,state}
  chmod 755 "$folder" "$folder"/{log,munge}
  printf '%s\n' "cluster=$cluster NODES=$NODES ACCT=${ACCT:-none}" >"$facts"
  trap '[ $? -eq 0 ] || down >&2' EXIT
  write_slurm_conf
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
  launch munged munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed"
  until_true 30 "munged to answer" test -S "$folder/munge/socket"
  [ "${ACCT:-none}" = none ] || start_accounting
  start_controller
  for ((node = 1; node <= NODES; node++)); do start_node "n$node"; done
  until_true 120 "slurmctld to answer" controller_answers
  until_true 120 "the nodes to register" nodes_are_usable
  exec {lock}>&-
  [ "${ACCT:-none}" = none ] || until_true 120 "slurmdbd to know the cluster" knows_cluster
  [ "${SMOKE:-1}" = 0 ] || timeout 120 srun -p gpu_high -n1 -t1 --mem=10 true || fail "a job failed; see $folder/log"
  echo "cluster $cluster is up after $((SECONDS - since)) s: export SLURM_CONF=$SLURM_CONF"
}

down() {
  local file process deadline=$((SECONDS + 15))
  [ -e "$facts" ] || return 0
  # shellcheck source=/dev/null
  source "$facts"
  if is_running slurmctld; then
    timeout 20 scancel --me || true
    while [ -n "$(timeout 10 squeue -h 2>/dev/null)" ] && ((SECONDS < deadline)); do sleep 0.2; done
  fi
  for file in "$folder"/pid/n* "$folder"/pid/{slurmctld,slurmdbd,mariadbd,munged}; do
    [ ! -e "$file" ] || stop "${file##*/}"
  done
  # Steps whose slurmd was killed, and processes of jobs that left their step.
  for process in /proc/[0-9]*; do
    process=${process#/proc/}
    if [ "$process" != $$ ] && has_variable "$process" "SLURM_CLUSTER_NAME=$cluster" ||
      { grep -q '^slurmstepd' "/proc/$process/cmdline" 2>/dev/null &&
        has_variable "$process" "SLURM_TEST_CLUSTER=$folder"; }; then
      kill -s KILL "$process" 2>/dev/null || true
    fi
  done
  echo "cluster $cluster is down; its logs are in $folder/log"
}

install() {
  local policy=/usr/sbin/policy-rc.d
  export DEBIAN_FRONTEND=noninteractive
  # No daemon of the packages is to start: a policy of 101 forbids it.
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get -qq -o DPkg::Lock::Timeout=600 update
  apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends \
    slurmctld slurmd slurm-client munge slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core
}

case ${1:-} in
  install | up | down) "$1" ;;
  status)
    sinfo -N -o '%N %T %c %z %m %G'
    squeue
    ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  kill-node) stop "${2:?which node?}" "${3:-KILL}" ;;
  start-node) start_node "${2:?which node?}" ;;
  kill-ctld) stop slurmctld "${2:-KILL}" ;;
  start-ctld)
    start_controller
    until_true 120 "slurmctld to answer" controller_answers
    ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
