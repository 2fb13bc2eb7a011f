# shellcheck shell=bash
# Sourced by the scripts that work in a freshly made Debian: makes such a tree, and enters it.

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

needs_debootstrap() {
    ((EUID == 0)) || die "needs root"
    command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
}

# Makes a tree of release $1 in the directory $2, from the mirror $3 (empty: debootstrap's), with the packages after it.
bootstrap() {
    local suite=$1 tree=$2 mirror=$3 packages
    shift 3
    packages=$(IFS=,; echo "ca-certificates${*:+,$*}") # the former for pip
    rm -rf "$tree"
    mkdir -p "$tree"
    debootstrap --variant=minbase --include="$packages" "$suite" "$tree" ${mirror:+"$mirror"} >"$tree.log" 2>&1 ||
        die "cannot make a tree of $suite: $(tail -n 1 "$tree.log")"
}

# What this machine knows of the network: names, certificates, and where pip looks.
copy_network() {
    local tree=$1 path
    cp /etc/resolv.conf /etc/hosts "$tree/etc/"
    cp -r /etc/ssl/certs/. "$tree/etc/ssl/certs/"
    for path in /etc/pip.conf "$HOME/.config/pip" "$HOME/.pip"; do
        [[ ! -e $path ]] || { mkdir -p "$tree$(dirname "$path")" && cp -rT "$path" "$tree$path"; }
    done
}

# Runs a command with mount and process namespaces of its own; there 'enter' makes a tree the root.
in_namespaces() {
    unshare --mount --propagation private --pid --fork --kill-child --uts "$@"
}

# Makes $1 the root of the mount namespace, with the devices of this machine and terminals of its own.
enter() {
    local tree=$1
    mount --bind "$tree" "$tree"
    mount --rbind --make-rslave /sys "$tree/sys"
    mount --rbind --make-rslave /dev "$tree/dev"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$tree/dev/pts"
    mount --bind "$tree/dev/pts/ptmx" "$tree/dev/ptmx"
    mount -t tmpfs -o mode=1777 tmpfs "$tree/dev/shm"
    mount -t proc proc "$tree/proc"
    mount -t tmpfs -o mode=0755 tmpfs "$tree/run"
    find "$tree/tmp" -mindepth 1 -delete # on disk: the tests' images are too much for half of the memory
    cd "$tree"
    mkdir -p old
    pivot_root . old
    cd /
    umount -l /old
}
