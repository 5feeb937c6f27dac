#!/bin/bash
# Run a command with Apptainer on PATH, as root on a Debian 12 machine that has none.
#
#   apptainer-here.sh base IMAGE                      build a Debian 12 base with Python (base.def)
#   apptainer-here.sh build IMAGE DEFINITION [OPTION...]    build an image; the machine's CA certificates are bound
#   apptainer-here.sh COMMAND [ARGUMENT...]           anything else, e.g. apptainer exec IMAGE python3 -V
#
# Settings, from the environment:
#   APPTAINER_HERE    folder for Apptainer (80 MB), fetched on first use, and its caches   (/var/tmp/apptainer-here)
set -euo pipefail

(($#)) || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2; }
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${APPTAINER_HERE:-/var/tmp/apptainer-here}

# A build with --fakeroot needs a range of ids for root. It is shown in a mount namespace, so that /etc stays as it is.
if [ "${APPTAINER_HERE_NAMESPACE:-}" != "$home" ]; then
  export APPTAINER_HERE_NAMESPACE=$home
  exec unshare --mount --propagation private "$tools/${0##*/}" "$@"
fi
mkdir -p "$home"/{tmp,cache}
(
  flock 9
  [ -x "$home/ap/bin/apptainer" ] || "$tools/get-apptainer.sh" "$home/ap" >&2
  echo "root:1000000:65536" >"$home/ids"
) 9>"$home/lock"
for file in /etc/subuid /etc/subgid; do
  [ -e "$file" ] || touch "$file"
  mount --bind "$home/ids" "$file"
done
# Images are mounted through FUSE, also by ordinary users; on clusters everyone may open this device.
if [ -c /dev/fuse ]; then chmod 666 /dev/fuse; fi
export PATH=$home/ap/bin:$PATH APPTAINER_TMPDIR=$home/tmp APPTAINER_CACHEDIR=$home/cache

case $1 in
  base)
    if ! command -v debootstrap >/dev/null || ! command -v mksquashfs >/dev/null; then
      apt-get -qq -o DPkg::Lock::Timeout=600 update >&2
      DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y debootstrap squashfs-tools >&2
    fi
    exec apptainer build --force --fakeroot --build-arg "mirror=$("$tools/get-apptainer.sh" --mirror)" \
      "${2:?which image?}" "$tools/base.def"
    ;;
  build)
    image=${2:?which image?} definition=${3:?from which definition?}
    shift 3
    exec apptainer build --force --fakeroot --bind /etc/ssl/certs/ca-certificates.crt "$@" "$image" "$definition"
    ;;
  *)
    # Root of a container or a small machine may lack capabilities that Apptainer would ask for.
    export APPTAINER_NO_PRIVS=1
    exec "$@"
    ;;
esac
